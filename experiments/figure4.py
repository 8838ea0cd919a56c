"""Figure 4: every algorithm on cart-pole, swimmer, hopper and walker.

python experiments/figure4.py --list --budget=reduced
python experiments/figure4.py --run --budget=reduced --only='cartpole/*' --workers=2
python experiments/figure4.py --plot --budget=reduced

Runs are --out/TASK/SETTING/seed_N, with results as default (runs/figure4 for smoke); those of a
budget whose iterations are not Table 2's are in TASK_BUDGET. What is there is not run again, and
what was interrupted goes on. --plot draws what there is.
"""

import concurrent.futures
import contextlib
import csv
import dataclasses
import fnmatch
import io
import multiprocessing
import os
import pathlib
import shlex
import signal
import sys
from collections.abc import Sequence

import numpy as np
import tqdm
from absl import flags

from experiments import cli, configs, train
from trpo_repro import checkpoint, config, metrics, plotting, runs

LIST = flags.DEFINE_bool("list", False, "Print the command of every run, and what is done.")
RUN = flags.DEFINE_bool("run", False, "Run what is missing.")
PLOT = flags.DEFINE_bool("plot", False, "Draw the figures and write the table.")
BUDGET = flags.DEFINE_enum("budget", "reduced", list(configs.BUDGETS), "Size of the runs.")
ONLY = flags.DEFINE_string("only", "*", "Glob of TASK/SETTING/seed_N: the runs to list or run.")
WORKERS = flags.DEFINE_integer("workers", 1, "Runs at a time.", lower_bound=1)

FINAL_FRACTION = 0.1  # of the iterations, at the end: what "final performance" is the mean of
TITLES = {"cartpole": "Cart-pole", "swimmer": "Swimmer", "hopper": "Hopper", "walker": "Walker"}
COLUMNS = ("task", "setting", "seeds", "iterations", "final", "final_low", "final_high", "drawn")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of the experiment.

    Attributes:
      task: of Figure 4.
      setting: name of an algorithm, with the value of its swept field if it has one.
      algorithm: key of configs.ALGORITHMS.
      config: of the run.
      directory: of the run.
    """

    task: str
    setting: str
    algorithm: str
    config: config.Config
    directory: pathlib.Path

    @property
    def name(self) -> str:
        return f"{self.task}/{self.setting}/seed_{self.config.seed}"

    @property
    def arguments(self) -> list[str]:
        """Flags of experiments/train.py: what differs from the task's preset."""
        start = configs.preset("paper", self.task, self.config.sampler, self.config.algorithm)
        changed = {
            field.name: getattr(self.config, field.name)
            for field in dataclasses.fields(self.config)
            if getattr(self.config, field.name) != getattr(start, field.name)
        }
        if self.config.sampler == "vine":
            changed = {"sampler": "vine", **changed}
        if self.config.algorithm in config.BLACK_BOX:
            changed = {"algorithm": self.config.algorithm, **changed}
        named = {"task": self.task, **changed, "seed": self.config.seed, "out": self.directory}
        return [f"--{name}={value}" for name, value in named.items()]

    @property
    def iterations(self) -> int:
        """Iterations that metrics.csv holds."""
        try:
            with (self.directory / "metrics.csv").open() as file:
                return max(0, sum(line.endswith("\n") for line in file) - 1)
        except FileNotFoundError:
            return 0

    @property
    def done(self) -> bool:
        return self.iterations >= self.config.iterations

    def check(self) -> None:
        """Raises ValueError if the directory holds what can be neither used nor gone on with."""
        if not (self.directory / "config.json").exists():
            return
        runs.check_resumable(self.config, self.directory)
        if not self.done and not (self.directory / "checkpoints").is_dir():
            raise ValueError(
                f"{self.directory} has {self.iterations} of {self.config.iterations} iterations "
                "and no checkpoint to go on from: move it away, or give another --out"
            )


def planned(budget_name: str, out: pathlib.Path, only: str = "*") -> list[Run]:
    """Returns the runs of a budget in the order to run them: seed by seed.

    Args:
      budget_name: key of configs.BUDGETS.
      out: where the tasks' directories are.
      only: glob of the runs' names.

    Raises:
      ValueError: nothing matches.
    """
    budget = configs.BUDGETS[budget_name]
    found = []
    for seed in range(1, budget.seeds + 1):
        for task in configs.FIGURE4:
            own = budget.own_directory(task)
            parent = out / (f"{task}_{budget_name}" if own else task)
            for setting, (algorithm, settings) in configs.figure4_settings(task, budget).items():
                seeded = dataclasses.replace(settings, seed=seed)
                directory = parent / setting / f"seed_{seed}"
                found.append(Run(task, setting, algorithm, seeded, directory))
    matching = [run for run in found if fnmatch.fnmatch(run.name, only)]
    if not matching:
        raise ValueError(f"--only={only} matches no run of the budget; --list shows their names")
    return matching


def main(_):
    if not (LIST.value or RUN.value or PLOT.value):
        cli.refuse("give at least one of --list, --run and --plot")
    default = "runs/figure4" if BUDGET.value == "smoke" else "results"
    out = pathlib.Path(cli.OUT.value or default)
    try:
        chosen = planned(BUDGET.value, out, ONLY.value)
        if LIST.value:
            show(chosen)
        if RUN.value:
            for run in chosen:
                run.check()
            execute(chosen, WORKERS.value)
        if PLOT.value:
            plot(planned(BUDGET.value, out), out)
    except (ValueError, OSError) as error:
        cli.refuse(str(error))


def show(chosen: Sequence[Run]) -> None:
    """Prints every run's command; what is done is marked."""
    for run in chosen:
        command = shlex.join(["python", "experiments/train.py", *run.arguments])
        state = f"{run.iterations} of {run.config.iterations} iterations"
        print(command + (f"  # {'done' if run.done else state}" if run.iterations else ""))


def execute(chosen: Sequence[Run], workers: int) -> None:
    """Runs what is missing in worker processes, with one progress bar over all.

    Ctrl-C stops the runs, which save; the same command goes on.
    """
    missing = [run for run in chosen if not run.done]
    print(f"{len(chosen) - len(missing)} of {len(chosen)} runs are done")
    if not missing:
        return
    waiting, failed = list(missing), []
    active: dict[concurrent.futures.Future, Run] = {}
    progress = tqdm.tqdm(
        total=sum(_steps(run, run.config.iterations) for run in missing),
        initial=sum(_steps(run, run.iterations) for run in missing),
        desc="all runs",
        unit=" steps",
        unit_scale=True,
        dynamic_ncols=True,
        smoothing=0.05,
    )
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_own_signals
    )
    try:
        with progress:
            while waiting or active:
                while waiting and len(active) < workers:
                    run = waiting.pop(0)
                    threads = max(1, len(os.sched_getaffinity(0)) // workers)
                    active[pool.submit(_train, run.arguments, run.directory, threads)] = run
                finished, _ = concurrent.futures.wait(
                    active, timeout=1.0, return_when="FIRST_COMPLETED"
                )
                for future in finished:
                    run = active.pop(future)
                    if future.exception() or not run.done:
                        failed.append(run)
                        tqdm.tqdm.write(f"{run.name} failed: see {run.directory / 'train.log'}")
                progress.n = sum(_steps(run, run.iterations) for run in missing)
                names = ", ".join(run.name for run in active.values())
                progress.set_postfix_str(f"{len(waiting)} runs to go after {names}")
    except KeyboardInterrupt:
        for child in multiprocessing.active_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(
                    child.pid,  # type: ignore[arg-type]
                    signal.SIGINT,
                )
        concurrent.futures.wait(active)
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        raise ValueError(f"{len(failed)} runs failed: {', '.join(run.name for run in failed)}")


def _steps(run: Run, iterations: int) -> int:
    """Returns the environment steps of so many iterations, at most."""
    settings = run.config
    if settings.algorithm in config.BLACK_BOX:
        return iterations * settings.population * settings.episodes_per_candidate * 1000
    if settings.sampler == "vine":
        branches = settings.rollout_states * settings.rollouts_per_state
        trunks = settings.trunks * settings.path_length
        return iterations * (trunks + branches * settings.rollout_length)
    return iterations * settings.steps_per_iteration


def _own_signals() -> None:
    """Keeps the terminal's Ctrl-C from a worker: the parent passes it on, once."""
    os.setpgrp()


def _train(arguments: list[str], directory: pathlib.Path, threads: int) -> None:
    """Runs experiments/train.py in this worker; what it prints goes to train.log."""
    directory.mkdir(parents=True, exist_ok=True)
    resume = ["--resume"] if (directory / "config.json").exists() else []
    sys.argv = ["experiments/train.py", *arguments, f"--threads={threads}", *resume]
    with (directory / "train.log").open("a") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    flags.FLAGS(sys.argv)
    train.main([])


def plot(chosen: Sequence[Run], out: pathlib.Path) -> None:
    """Draws the panels against iterations and simulator steps, and writes the table."""
    table = summarize(chosen)
    name = f"figure4_{BUDGET.value}"
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.write_text(out / f"{name}.csv", buffer.getvalue())
    print(out / f"{name}.csv")
    panels: dict[str, dict[str, list[pathlib.Path]]] = {}
    for task, algorithms in configs.FIGURE4.items():
        drawn = {name: best(chosen, task, name) for name in algorithms}
        panels[TITLES[task]] = {
            configs.ALGORITHMS[name].label: [run.directory for run in found]
            for name, found in drawn.items()
            if found
        }
    lengths = {run.task: run.config.iterations for run in chosen}
    for x in ("iteration", "env_steps"):
        file = out / f"{name}_{x}.png"
        plotting.learning_curves(
            panels,
            file,
            x=x,
            y="reward_per_step",
            lengths={TITLES[task]: length for task, length in lengths.items()},
        )
        print(file)


def finished(chosen: Sequence[Run], task: str, setting: str) -> list[Run]:
    """Returns the finished runs of a setting, by seed."""
    return [run for run in chosen if (run.task, run.setting) == (task, setting) and run.done]


def curves(found: Sequence[Run], column: str = "reward_per_step") -> np.ndarray:
    """Returns a column of runs, [S, I], up to the budget's number of iterations."""
    return np.stack(
        [
            metrics.read(run.directory / "metrics.csv")[column][: run.config.iterations]
            for run in found
        ]
    )


def final(found: Sequence[Run]) -> np.ndarray:
    """Returns each seed's final performance, [S]: mean of the last tenth of its iterations."""
    values = curves(found)
    last = max(1, round(FINAL_FRACTION * values.shape[1]))
    return np.nanmean(values[:, -last:], axis=1)


def best(chosen: Sequence[Run], task: str, algorithm: str) -> list[Run]:
    """Returns the finished runs of an algorithm; of a sweep, those of the best setting.

    The best has the highest mean final performance over seeds; none is finished: no runs.
    """
    settings = dict.fromkeys(
        run.setting for run in chosen if (run.task, run.algorithm) == (task, algorithm)
    )
    candidates = [found for s in settings if (found := finished(chosen, task, s))]
    return max(candidates, key=lambda found: final(found).mean(), default=[])


def summarize(chosen: Sequence[Run]) -> list[dict]:
    """Returns a row of COLUMNS for every setting with finished runs."""
    rows = []
    for task, setting, algorithm in dict.fromkeys(
        (run.task, run.setting, run.algorithm) for run in chosen
    ):
        found = finished(chosen, task, setting)
        if not found:
            continue
        interval = plotting.across_seeds(final(found)[:, None], np.random.default_rng(0))[:, 0]
        drawn = best(chosen, task, algorithm) == found
        cells = (task, setting, len(found), found[0].config.iterations, *interval, int(drawn))
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


if __name__ == "__main__":
    cli.run(main)
