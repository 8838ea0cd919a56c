"""Draws learning curves: mean and 95% interval over seeds, from metrics.csv files alone.

python experiments/plot.py --runs='Swimmer/vine=results/swimmer/vine/seed_*' --out=swimmer.png
"""

import glob
import json
import pathlib

from absl import flags

from trpo_repro.analysis import plots
from trpo_repro.commands import cli

flags.declare_key_flag("out")
RUNS = flags.DEFINE_multi_string(
    "runs",
    [],
    "PANEL/LABEL=PATTERN: title of the panel, label of the curve, and a glob of its run "
    "directories; repeatable.",
)
X = flags.DEFINE_enum("x", "iteration", ["iteration", "env_steps", "seconds"], "Horizontal axis.")
Y = flags.DEFINE_string("y", "return_mean", "Vertical axis: a column of metrics.csv.")
EPISODE_LENGTH = flags.DEFINE_list(
    "episode_length", [], "Titles of panels to draw again with the mean length of episodes."
)
FORMATS = (".png", ".pdf", ".svg")


def main(_):
    if not cli.OUT.value:
        cli.refuse("give the figure's file with --out=FILE.png")
    output = pathlib.Path(cli.OUT.value)
    if cli.OUT.value.endswith("/") or output.suffix not in FORMATS:
        cli.refuse(f"--out={cli.OUT.value} is not allowed: must end in {', '.join(FORMATS)}")
    with cli.refused_errors():
        drawn = panels(RUNS.value)
        for title in EPISODE_LENGTH.value:
            if title not in drawn:
                raise ValueError(
                    f"--episode_length={title} is not allowed: must be of {', '.join(drawn)}"
                )
        plots.learning_curves(
            drawn, output, x=X.value, y=Y.value, with_episode_length=EPISODE_LENGTH.value
        )
    print(output)


def panels(texts: list[str]) -> dict[str, dict[str, list[pathlib.Path]]]:
    """Returns title → label → run directories.

    Raises:
      ValueError: a text is malformed, or its pattern matches nothing.
    """
    if not texts:
        raise ValueError("give at least one --runs=PANEL/LABEL=PATTERN")
    found: dict[str, dict[str, list[pathlib.Path]]] = {}
    for text in texts:
        name, _, pattern = text.rpartition("=")  # a label may be of the form δ = 0.003
        title, separator, label = name.partition("/")
        runs = sorted(pathlib.Path(path) for path in glob.glob(pattern))
        if not separator:
            raise ValueError(f"--runs={text} is not allowed: must be PANEL/LABEL=PATTERN")
        if not runs:
            raise ValueError(f"--runs={text}: no directory matches {pattern!r}")
        if label in found.get(title, {}):
            raise ValueError(f"--runs={text}: panel {title!r} has a curve {label!r} already")
        tasks = {task for run in runs if (task := _task(run))}
        if len(tasks) > 1:
            raise ValueError(f"--runs={text}: its runs are of several tasks, {sorted(tasks)}")
        found.setdefault(title, {})[label] = runs
    return found


def _task(run: pathlib.Path) -> str | None:
    """Returns the task that a run's record names, if it can be read."""
    try:
        return json.loads((run / "config.json").read_text())["config"]["task"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


if __name__ == "__main__":
    cli.run(main)
