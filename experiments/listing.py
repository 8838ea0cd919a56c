"""What the scripts of many runs share: their flags, --list, --run and --plot."""

import fnmatch
import shlex
from collections.abc import Callable, Sequence

from absl import flags

from experiments import batch
from trpo_repro.commands import cli, train  # noqa: F401, whose --ray_address this reads

for _name in ("jobs", "ray_address", "out"):
    flags.declare_key_flag(_name)
LIST = flags.DEFINE_bool("list", False, "Print the command of every run, and what is done.")
RUN = flags.DEFINE_bool("run", False, "Run what is missing.")
PLOT = flags.DEFINE_bool("plot", False, "Draw the figures and write the tables.")
BUDGET = flags.DEFINE_enum(
    "budget", "medium", ["smoke", "medium", "paper"], "Size of the runs; smoke is for tests."
)
ONLY = flags.DEFINE_string(
    "only",
    "*",
    "Glob of TASK/SETTING/seed_N: the runs to list or run; figures take all that there are.",
)


def main(planned: Callable[[str], list[batch.Run]], draw: Callable[[], None]) -> None:
    """Does what --list, --run and --plot ask for.

    Args:
      planned: glob of names → the runs of the experiment.
      draw: makes the figures and tables.
    """
    if not (LIST.value or RUN.value or PLOT.value):
        cli.refuse("give at least one of --list, --run and --plot")
    with cli.refused_errors():
        chosen = planned(ONLY.value)
        if LIST.value:
            show(chosen)
        if RUN.value:
            batch.execute(lambda: planned(ONLY.value), flags.FLAGS["ray_address"].value)
        if PLOT.value:
            draw()


def show(chosen: Sequence[batch.Run]) -> None:
    """Prints every run's command; what is done is marked."""
    for run in chosen:
        command = shlex.join(run.command)
        try:
            state = "done" if run.done else f"{run.iterations} of {run.wanted} iterations"
        except ValueError as error:
            state = str(error)
        print(command + (f"  # {state}" if run.iterations else ""))


def matching(planned: Sequence[batch.Run], only: str) -> list[batch.Run]:
    """Returns those whose names match a glob.

    Raises:
      ValueError: none does.
    """
    found = [run for run in planned if fnmatch.fnmatch(run.name, only)]
    if not found:
        some = ", ".join(run.name for run in planned[:3])
        raise ValueError(f"--only={only} matches no run of the budget, such as {some}")
    return found
