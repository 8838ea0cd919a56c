"""Draws learning curves: mean and 95% interval over seeds, from metrics.csv files alone.

python experiments/plot.py --runs='Swimmer/vine=results/swimmer/vine/seed_*' --png=swimmer.png
"""

import glob
import pathlib

from absl import flags

from experiments import cli
from trpo_repro import plotting

RUNS = flags.DEFINE_multi_string(
    "runs",
    [],
    "PANEL/LABEL=PATTERN: title of the panel, label of the curve, and a glob of its run "
    "directories; repeatable.",
)
PNG = flags.DEFINE_string("png", None, "File to write.", required=True)
X = flags.DEFINE_enum("x", "iteration", ["iteration", "env_steps"], "Horizontal axis.")
Y = flags.DEFINE_string("y", "return_mean", "Vertical axis: a column of metrics.csv.")


def main(_):
    try:
        plotting.learning_curves(panels(RUNS.value), pathlib.Path(PNG.value), x=X.value, y=Y.value)
    except (ValueError, OSError) as error:
        cli.refuse(str(error))
    print(PNG.value)


def panels(texts: list[str]) -> dict[str, dict[str, list[pathlib.Path]]]:
    """Returns title → label → run directories.

    Raises:
      ValueError: a text is malformed, or its pattern matches nothing.
    """
    if not texts:
        raise ValueError("give at least one --runs=PANEL/LABEL=PATTERN")
    found: dict[str, dict[str, list[pathlib.Path]]] = {}
    for text in texts:
        name, _, pattern = text.partition("=")
        title, separator, label = name.partition("/")
        runs = sorted(pathlib.Path(path) for path in glob.glob(pattern))
        if not separator or not runs:
            raise ValueError(f"--runs={text}: no directory matches; write PANEL/LABEL=PATTERN")
        found.setdefault(title, {})[label] = runs
    return found


if __name__ == "__main__":
    cli.run(main)
