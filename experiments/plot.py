"""Draws learning curves: mean and 95% interval over seeds, from metrics.csv files alone.

python experiments/plot.py --runs='TRPO=results/swimmer/seed_*' --png=swimmer.png
"""

import glob
import pathlib

from absl import flags

from experiments import cli
from trpo_repro import plotting

RUNS = flags.DEFINE_multi_string(
    "runs", [], "LABEL=PATTERN: a curve's label and a glob of its run directories; repeatable."
)
PNG = flags.DEFINE_string("png", None, "File to write.", required=True)
X = flags.DEFINE_enum("x", "iteration", ["iteration", "env_steps"], "Horizontal axis.")
Y = flags.DEFINE_string("y", "return_mean", "Vertical axis: a column of metrics.csv.")
TITLE = flags.DEFINE_string("title", "", "Title of the figure.")


def main(_):
    try:
        groups = dict(_group(text) for text in RUNS.value)
        if not groups:
            raise ValueError("give at least one --runs=LABEL=PATTERN")
        plotting.learning_curves(
            groups, pathlib.Path(PNG.value), x=X.value, y=Y.value, title=TITLE.value
        )
    except (ValueError, OSError) as error:
        cli.refuse(str(error))
    print(PNG.value)


def _group(text: str) -> tuple[str, list[pathlib.Path]]:
    label, separator, pattern = text.partition("=")
    runs = sorted(pathlib.Path(path) for path in glob.glob(pattern))
    if not separator or not runs:
        raise ValueError(f"--runs={text}: no directory matches; write LABEL=PATTERN")
    return label, runs


if __name__ == "__main__":
    cli.run(main)
