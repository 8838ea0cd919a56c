"""Makes every run of the reproduction that is missing, in the order of its worth.

python experiments/reproduce.py --list
python experiments/reproduce.py --run --hours=8 --jobs=2

The units are Figure 4 with its sweeps and ablations, the swimmer study, Gymnasium's tasks, the
variance experiments, the theory, and Atari, in rounds over all games. --list says of each what is
there, what it still needs by the rates measured so far, and the command that makes it; with --only,
the command of every run. --run makes what is missing; at the time limit, on Ctrl-C and on SIGTERM
the runs save, and the same command goes on. Results are in results/.
"""

import dataclasses
import fnmatch
import os
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import atari, batch, cli, configs, figure4, swimmer_study
from trpo_repro import metrics

flags.declare_key_flag("list")
flags.declare_key_flag("run")
ONLY_UNITS = flags.DEFINE_string("units", "*", "Glob of the units to list or run.")
HOURS = flags.DEFINE_float("hours", None, "Stop after this long; the runs save.", lower_bound=0.0)
JOBS = flags.DEFINE_integer("jobs", 1, "Runs at a time, which share the cores.", lower_bound=1)
RESULTS = pathlib.Path("results")
BUDGET = "medium"


@dataclasses.dataclass(frozen=True)
class Script:
    """An experiment that is one script, run as a whole.

    Attributes:
      name: of the unit.
      command: arguments of Python.
      outputs: files that it leaves in results/.
      minutes: that it takes on one core.
    """

    name: str
    command: tuple[str, ...]
    outputs: tuple[str, ...]
    minutes: float

    @property
    def label(self) -> str:
        return self.name

    @property
    def log(self) -> pathlib.Path:
        return pathlib.Path("runs") / f"{self.name}.log"

    @property
    def done(self) -> bool:
        return all((RESULTS / output).exists() for output in self.outputs)

    @property
    def steps(self) -> tuple[int, int]:
        """Done and asked for, as if they were environment steps."""
        total = int(self.minutes * 60 * STEPS_PER_SECOND)
        return total * self.done, total

    def job(self, cores: int) -> tuple[Callable[..., None], *tuple[Any, ...]]:
        return _run_script, self.command, self.log


STEPS_PER_SECOND = 15_000  # of one core, where nothing has been measured


def _run_script(command: Sequence[str], log: pathlib.Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        subprocess.run([sys.executable, *command], stdout=file, stderr=file, check=True)


def _figure4(*patterns: str) -> list[batch.Job]:
    runs = figure4.planned(BUDGET, RESULTS)
    return [run for p in patterns for run in runs if fnmatch.fnmatch(run.name, p)]


def _in_full(task: str) -> list[batch.Job]:
    """Returns vine's and single path's runs of a task to Table 2's iterations."""
    runs = figure4.planned(BUDGET, RESULTS, f"{task}/*")
    return [dataclasses.replace(run, stop_at=None) for run in runs if run.setting in configs.TRPO]


def _gymnasium() -> list[batch.Job]:
    """Returns the runs of Hopper-v5 with the `gae` preset."""
    found: list[batch.Job] = []
    for seed in range(1, 4):
        config = dataclasses.replace(configs.preset("gae", "Hopper-v5"), seed=seed)
        directory = RESULTS / "Hopper-v5" / "gae" / f"seed_{seed}"
        found.append(batch.Run("Hopper-v5", "gae", "single_path", config, directory, preset="gae"))
    return found


def _atari(sampler: str, until: int) -> list[batch.Job]:
    """Returns the runs of all games to one iteration."""
    runs = atari.planned(BUDGET, RESULTS / "atari", f"*/{sampler}/*")
    return [dataclasses.replace(run, stop_at=until) for run in runs]


def _script(name: str, *outputs: str, minutes: float) -> Callable[[], list[batch.Job]]:
    out = str(RESULTS / pathlib.Path(outputs[0]).parent)
    command = (f"experiments/{name}.py", f"--out={out}")
    return lambda: [Script(name, command, outputs, minutes)]


UNITS: dict[str, Callable[[], list[batch.Job]]] = {
    "swimmer": lambda: _figure4("swimmer/vine/*", "swimmer/single_path/*"),
    "cartpole": lambda: _figure4("cartpole/*"),
    "walker": lambda: [
        dataclasses.replace(run, stop_at=60)
        for run in figure4.planned(BUDGET, RESULTS, "walker/single_path/seed_[123]")
    ],
    "swimmer_others": lambda: _figure4("swimmer/*"),
    "swimmer_study": lambda: list(swimmer_study.planned(BUDGET, RESULTS / "swimmer_study")),
    "theory": _script("theory", "theory/violations.csv", "theory/claims.json", minutes=1),
    "common_random_numbers": _script(
        "common_random_numbers", "vine/common_random_numbers.csv", minutes=6
    ),
    "surrogate_variance": _script("surrogate_variance", "vine/surrogate_variance.csv", minutes=12),
    "Hopper-v5": _gymnasium,
    "hopper_and_walker": lambda: _figure4("hopper/*", "walker/*"),
    "swimmer_in_full": lambda: _in_full("swimmer"),
    **{
        f"atari_round_{i}": lambda i=i: _atari("single_path", i * configs.ATARI_ROUND)  # type: ignore[misc]
        for i in (1, 2, 3)
    },
    "atari_vine": lambda: _atari("vine", configs.ATARI_STOP_AT[BUDGET]["vine"]),
}


def plan(pattern: str = "*") -> list[batch.Job]:
    """Returns the jobs of the units whose names match a glob, in their order, each once.

    Raises:
      ValueError: nothing matches.
    """
    names = [name for name in UNITS if fnmatch.fnmatch(name, pattern)]
    if not names:
        raise ValueError(f"--units={pattern} matches none of {', '.join(UNITS)}")
    jobs: dict[str, batch.Job] = {}
    for name in names:
        jobs |= {job.label: job for job in UNITS[name]() if job.label not in jobs}
    return list(jobs.values())


def seconds_left(job: batch.Job) -> float:
    """Returns what a job still takes on one core: by its own rate, or the assumed one."""
    done, total = job.steps
    rate = float(STEPS_PER_SECOND)
    if isinstance(job, batch.Run) and job.iterations:
        table = metrics.read(job.directory / "metrics.csv")
        rate = table["env_steps"][-1] / np.sum(table["seconds_sampling"] + table["seconds_update"])
    return (total - done) / rate


def show(pattern: str) -> None:
    """Prints a line a unit; of a single one, a line a run."""
    names = [name for name in UNITS if fnmatch.fnmatch(name, pattern)]
    plan(pattern)
    for name in names:
        jobs = UNITS[name]()
        missing = [job for job in jobs if not job.done]
        left = sum(map(seconds_left, missing)) / JOBS.value / 3600
        done = len(jobs) - len(missing)
        state = "done" if not missing else f"{done} of {len(jobs)} done, {left:.1f} hours left"
        print(f"{name:22} {state:32} python experiments/reproduce.py --run --units={name}")
        for job in jobs if len(names) == 1 else ():
            print("  ", end="")
            if isinstance(job, batch.Run):
                batch.show([job])
            elif isinstance(job, Script):
                print(shlex.join(["python", *job.command]))


def main(_):
    if not (batch.LIST.value or batch.RUN.value):
        cli.refuse("give at least one of --list and --run")
    try:
        if batch.LIST.value:
            show(ONLY_UNITS.value)
        if batch.RUN.value:
            if HOURS.value is not None:
                signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
                signal.setitimer(signal.ITIMER_REAL, max(HOURS.value * 3600, 1e-3))
            batch.execute(lambda: plan(ONLY_UNITS.value), JOBS.value)
    except (ValueError, OSError) as error:
        cli.refuse(str(error))


if __name__ == "__main__":
    cli.run(main)
