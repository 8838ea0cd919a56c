"""Makes every run of the reproduction that is missing, in the order of its worth.

python experiments/reproduce.py --list
python experiments/reproduce.py --run --hours=8 --jobs=2
python experiments/reproduce.py --report

The units are Figure 4 with its sweeps, its ablations and the surrogate's other solvers, the swimmer
study, Gymnasium's tasks, the variance experiments, the study of vine's information, K-FAC beside
conjugate gradient, the theory, and Atari, in rounds over all games. --list says of each what is
there, what it still needs by the rates measured so far, and the command that makes it; with --units
of a single one, the command of every run. --run makes what is missing; at the time limit, on Ctrl-C
and on SIGTERM the runs save, and the same command continues them. A finished run that is to have
more iterations and has no checkpoint is left as it is, and named. --report draws all figures and
writes all tables, claims.md, results/README.md and the generated parts of README.md and
WORKSPACE.md, from what there is.
"""

import dataclasses
import fnmatch
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Collection, Sequence

import numpy as np
from absl import flags

from experiments import (
    atari,
    batch,
    benchmark,
    configs,
    figure4,
    listing,
    report,
    swimmer_study,
)
from trpo_repro import environments
from trpo_repro.analysis import curves
from trpo_repro.commands import cli

flags.declare_key_flag("list")
flags.declare_key_flag("run")
flags.declare_key_flag("budget")
flags.declare_key_flag("jobs")
flags.declare_key_flag("ray_address")
flags.declare_key_flag("out")
ONLY_UNITS = flags.DEFINE_string("units", "*", "Glob of the units to list or run.")
HOURS = flags.DEFINE_float("hours", None, "Stop after this long; the runs save.", lower_bound=0.0)
REPORT = flags.DEFINE_bool("report", False, "Draw all figures and write all tables and texts.")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be reproduced, and where to.

    Attributes:
      budget: budget of configs.BUDGETS.
      out: directory of results.
    """

    budget: str
    out: pathlib.Path

    def figure4(self, task: str, algorithms: Collection[str]) -> list[batch.Job]:
        """Returns the runs of algorithms on a task of Figure 4, of all values of their sweeps."""
        runs = figure4.planned(self.budget, self.out, f"{task}/*")
        return [run for run in runs if run.algorithm in algorithms]

    def figure4_until(self, pattern: str, iterations: int | None) -> list[batch.Job]:
        """Returns runs of Figure 4 to so many iterations, or to the end."""
        return _until(figure4.planned(self.budget, self.out, pattern), iterations)

    def atari(self, sampler: str, iterations: int | None = None) -> list[batch.Job]:
        """Returns the runs of all games to so many iterations, or to what the budget asks for."""
        runs = atari.planned(self.budget, self.out / "atari", f"*/{sampler}/*")
        return _until(runs, iterations) if iterations else list(runs)

    def swimmer_study(self) -> list[batch.Job]:
        return list(swimmer_study.planned(self.budget, self.out / "swimmer_study"))

    def benchmark(self, *patterns: str, iterations: int | None = None) -> list[batch.Job]:
        """Returns runs of Gymnasium's tasks whose names match a glob, to so many iterations."""
        runs = benchmark.planned(self.budget, self.out)
        found = [run for p in patterns for run in runs if fnmatch.fnmatch(run.name, p)]
        return _until(found, iterations)

    def peers(self) -> list[batch.Job]:
        """Returns the runs of SB3-contrib's TRPO; there are no small ones for tests."""
        return [] if self.budget == "smoke" else benchmark.planned_peers(self.out)

    def script(self, name: str, outputs: Sequence[str], minutes: float) -> list[batch.Job]:
        """Returns an experiment that is one script; there is no small one for tests."""
        if self.budget == "smoke":
            return []
        paths = tuple(self.out / output for output in outputs)
        command = (f"experiments/{name}.py", f"--out={paths[0].parent}")
        return [batch.Script(name, command, paths, minutes)]


def _until(runs: Sequence[batch.Run], iterations: int | None) -> list[batch.Job]:
    return [
        dataclasses.replace(
            run,
            stop_at=iterations if iterations and iterations < run.config.iterations else None,
        )
        for run in runs
    ]


def _but_solvers(task: str) -> tuple[str, ...]:
    """Returns the algorithms of Figure 4 and beside it, but the surrogate's other solvers."""
    return *configs.FIGURE4[task], *configs.ABLATIONS


UNITS: dict[str, Callable[[Plan], list[batch.Job]]] = {
    "swimmer": lambda plan: plan.figure4("swimmer", configs.TRPO),
    "cartpole": lambda plan: plan.figure4("cartpole", _but_solvers("cartpole")),
    "walker": lambda plan: plan.figure4_until("walker/single_path/seed_[123]", 60),
    "swimmer_others": lambda plan: plan.figure4("swimmer", _but_solvers("swimmer")),
    "swimmer_study": Plan.swimmer_study,
    "theory": lambda plan: plan.script(
        "theory",
        ("theory/violations.csv", "theory/claims.json", "theory/state_weighting.csv"),
        minutes=1,
    ),
    "common_random_numbers": lambda plan: plan.script(
        "common_random_numbers", ("vine/common_random_numbers.csv",), minutes=6
    ),
    "surrogate_variance": lambda plan: plan.script(
        "surrogate_variance", ("vine/surrogate_variance.csv",), minutes=12
    ),
    "gradient_variance": lambda plan: plan.script(
        "gradient_variance", ("gradient_variance/gradient_variance.csv",), minutes=5
    ),
    "swimmer_in_full": lambda plan: [
        *plan.figure4_until("swimmer/vine/*", None),
        *plan.figure4_until("swimmer/single_path/*", None),
    ],
    "benchmark_ablation": lambda plan: plan.benchmark("*/ablation_*"),
    "benchmark": lambda plan: plan.benchmark(
        *(f"{task}/gae/*" for task in configs.MUJOCO_TASKS),
        iterations=configs.gae_iterations(configs.MILLION),
    ),
    "classic_control": lambda plan: plan.benchmark(*(f"{t}/*" for t in configs.CLASSIC_TASKS)),
    "solvers": lambda plan: [
        run for task in configs.ABLATION_TASKS for run in plan.figure4(task, configs.SOLVERS)
    ],
    "benchmark_peers": Plan.peers,
    "benchmark_continued": lambda plan: plan.benchmark(
        *(f"{task}/gae/*" for task in configs.CONTINUED_TASKS)
    ),
    "hopper_and_walker": lambda plan: [
        run for task in ("hopper", "walker") for run in plan.figure4(task, configs.ALGORITHMS)
    ],
    "atari_round_1": lambda plan: plan.atari("single_path", configs.ATARI_ROUND),
    "vine_information": lambda plan: plan.script(
        "vine_information", ("vine/vine_information.png",), minutes=240
    ),
    "kfac": lambda plan: plan.script("kfac", ("kfac/kfac.csv", "kfac/kfac.png"), minutes=60),
    "atari_round_2": lambda plan: plan.atari("single_path", 2 * configs.ATARI_ROUND),
    "atari_round_3": lambda plan: plan.atari("single_path", 3 * configs.ATARI_ROUND),
    "atari_vine": lambda plan: plan.atari("vine"),
}


def matching_units(pattern: str) -> list[str]:
    """Returns the names of the units that match a glob, in their order.

    Raises:
      ValueError: nothing matches.
    """
    names = [name for name in UNITS if fnmatch.fnmatch(name, pattern)]
    if not names:
        raise ValueError(f"--units={pattern} matches none of {', '.join(UNITS)}")
    return names


def all_jobs(plan: Plan, pattern: str) -> list[batch.Job]:
    """Returns the jobs of the units that match a glob, in their order, each once."""
    jobs: dict[str, batch.Job] = {}
    for name in matching_units(pattern):
        jobs |= {job.label: job for job in UNITS[name](plan) if job.label not in jobs}
    return list(jobs.values())


def measured_rates(jobs: Sequence[batch.Job]) -> dict[str, float]:
    """Returns kind of task → median environment steps per second of the runs that were begun."""
    rates: dict[str, list[float]] = {}
    for job in jobs:
        if isinstance(job, batch.Run) and job.iterations:
            table = curves.read(job.directory / "metrics.csv")
            seconds = np.sum(table["seconds_sampling"] + table["seconds_update"])
            rates.setdefault(_kind(job), []).append(table["env_steps"][-1] / seconds)
    return {kind: float(np.median(found)) for kind, found in rates.items()}


def _kind(job: batch.Job) -> str:
    if not isinstance(job, batch.Run):
        return "script"
    return "atari" if environments.is_atari(job.task) else job.task


def show(plan: Plan, pattern: str) -> None:
    """Prints a line a unit; of a single one, a line a run."""
    names = matching_units(pattern)
    rates = measured_rates(all_jobs(plan, "*"))
    for name in names:
        jobs = UNITS[name](plan)
        missing = [job for job in jobs if not job.done]
        seconds = sum(
            (job.steps[1] - job.steps[0]) / rates.get(_kind(job), batch.STEPS_PER_SECOND)
            for job in missing
        )
        left, done = seconds / (batch.JOBS.value or 1) / 3600, len(jobs) - len(missing)
        state = "done" if not missing else f"{done} of {len(jobs)} done, {left:.1f} hours left"
        print(f"{name:22} {state:32} python experiments/reproduce.py --run --units={name}")
        for job in jobs if len(names) == 1 else ():
            print("  ", end="")
            if isinstance(job, batch.Run):
                listing.show([job])
            elif isinstance(job, batch.Script):
                here = job.python == sys.executable
                python = "python" if here else os.path.relpath(job.python)
                state = "  # done" if job.done else ""
                print(shlex.join([python, *job.command]) + state)


def main(_):
    if not (listing.LIST.value or listing.RUN.value or REPORT.value):
        cli.refuse("give at least one of --list, --run and --report")
    default = "runs/reproduce_smoke" if listing.BUDGET.value == "smoke" else "results"
    plan = Plan(listing.BUDGET.value, pathlib.Path(cli.OUT.value or default))
    with cli.refused_errors():
        if listing.LIST.value:
            show(plan, ONLY_UNITS.value)
        if listing.RUN.value:
            if HOURS.value is not None:
                cli.stop_after(HOURS.value * 3600)
            batch.execute(
                lambda: all_jobs(plan, ONLY_UNITS.value), flags.FLAGS["ray_address"].value
            )
        if REPORT.value:
            readme = pathlib.Path("README.md") if cli.OUT.value is None else None
            print(*report.write(plan.out, plan.budget, readme), sep="\n")


if __name__ == "__main__":
    cli.run(main)
