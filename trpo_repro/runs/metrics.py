"""The metrics of a run: one row an iteration, in metrics.csv and TensorBoard.

WORKSPACE.md defines each column.
"""

import csv
import io
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from trpo_repro import files

TIMES = ("seconds_sampling", "seconds_update", "steps_per_second")

COLUMNS = (
    "iteration",
    "env_steps",
    "episodes",
    "return_mean",
    "return_min",
    "return_max",
    "return_recent",
    "episode_length",
    "reward_per_step",
    "reward_mean",
    "surrogate_before",
    "surrogate_after",
    "mean_kl",
    "max_kl",
    "improvement_ratio",
    "kl_limit",
    "multiplier",
    "entropy",
    "gradient_norm",
    "step_norm",
    "cg_residual",
    "backtracks",
    "accepted",
    "outcome",
    "explained_variance",
    "informative_states",
    "merged_steps",
    *TIMES,
)


class Writer:
    """Appends rows to metrics.csv and a TensorBoard log in a run's directory."""

    def __init__(self, directory: pathlib.Path, completed_iterations: int):
        """Opens the files; rows after `completed_iterations` are dropped, to be made again.

        Raises:
          ValueError: the rows before are not there, or have columns that are not known.
        """
        self._path = directory / "metrics.csv"
        head, *rows = read_rows(self._path) or [[]]
        rows = [row for row in rows[:completed_iterations] if len(row) == len(head)]
        if unknown := sorted(set(head) - set(COLUMNS)):
            raise ValueError(f"{self._path} has columns that this version does not know: {unknown}")
        # A run that is older than a column has no value of it.
        kept = [
            [dict(zip(head, row, strict=True)).get(name, "") for name in COLUMNS] for row in rows
        ]
        expected = [str(i) for i in range(1, completed_iterations + 1)]
        if [row[0] for row in kept] != expected:
            raise ValueError(f"{self._path} lacks rows of the {completed_iterations} iterations")
        write_rows(self._path, [COLUMNS, *kept])
        board = directory / "tensorboard"
        if board.exists() and not board.is_dir():
            raise ValueError(f"{board} is not a directory; move it away")
        self._file = self._path.open("a", newline="")
        self._board = tf.summary.create_file_writer(str(board))

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row, to disk before it returns; columns that it lacks stay empty."""
        row = {name: row.get(name, math.nan) for name in COLUMNS}
        self._file.write(_line([_text(row[name]) for name in COLUMNS]))
        self._file.flush()
        os.fsync(self._file.fileno())
        with self._board.as_default(step=row["iteration"]):
            for name in COLUMNS:
                value = row[name]
                if not isinstance(value, str) and math.isfinite(value):
                    tf.summary.scalar(name, value)
        self._board.flush()

    def close(self) -> None:
        self._file.close()
        self._board.close()


def read_rows(path: pathlib.Path) -> list[list[str]]:
    """Returns the rows of a CSV file, its head first; none if there is no file.

    Raises:
      ValueError: it is damaged.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            return list(csv.reader(file))
    except (csv.Error, UnicodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def write_rows(path: pathlib.Path, rows: Iterable[Iterable[Any]]) -> None:
    """Replaces a CSV file."""
    files.write_text(path, "".join(_line(map(_text, row)) for row in rows))


def _text(value: Any) -> str:
    """Returns the shortest text that reads back as the same number; nothing if not finite."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    if isinstance(value, (int, np.integer)):
        return str(value)
    return str(value) if math.isfinite(value) else ""


def _line(cells) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()
