"""Checkpoints: one NumPy archive each, replaced atomically, the last two kept.

The checkpoint of an unfinished run can also be carried: one compressed file of the same name beside
metrics.csv, which a version control system keeps.
"""

import pathlib
from collections.abc import Mapping

import numpy as np
from absl import logging

from trpo_repro import files

KEPT = 2
_NAMES = "names of the arrays"


class CheckpointError(Exception):
    """No checkpoint could be read; the message names the files."""


def save(
    directory: pathlib.Path,
    iteration: int,
    arrays: Mapping[str, np.ndarray],
    *,
    kept: int = KEPT,
    compressed: bool = False,
) -> None:
    """Writes a checkpoint atomically, then deletes older ones.

    Args:
      directory: directory of the checkpoints; created if need be.
      iteration: completed iterations, the checkpoint's number.
      arrays: by name; object arrays are refused.
      kept: checkpoints that stay, this one included.
      compressed: by zip's deflate.

    Raises:
      OSError: the disk refused; checkpoints written before are untouched.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write = np.savez_compressed if compressed else np.savez
    with files.replacing(directory / f"checkpoint-{iteration:08d}.npz") as file:
        write(file, allow_pickle=False, **arrays, **{_NAMES: np.array(sorted(arrays))})
    for path in _paths(directory)[:-kept]:
        path.unlink(missing_ok=True)


def delete(directory: pathlib.Path) -> None:
    """Deletes a directory's checkpoints."""
    for path in _paths(directory):
        path.unlink(missing_ok=True)


def exist(*directories: pathlib.Path) -> bool:
    """Whether there is a checkpoint in one of the directories."""
    return any(_paths(directory) for directory in directories)


def load_latest(*directories: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of the newest readable checkpoint; says which files are damaged.

    Raises:
      CheckpointError: there is none.
    """
    damaged = []
    found = [path for directory in directories for path in _paths(directory)]
    for path in sorted(found, key=lambda path: path.name, reverse=True):
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive)
            if sorted(arrays.keys() - {_NAMES}) != arrays.pop(_NAMES).tolist():
                raise ValueError("an array is missing")
            return arrays
        except Exception as error:  # damage shows as almost any exception of the zip format
            damaged.append(str(path))
            logging.error("checkpoint %s is damaged (%s); trying the one before", path, error)
    if damaged:
        raise CheckpointError(f"no readable checkpoint; damaged: {', '.join(damaged)}")
    raise CheckpointError(f"no checkpoint in {', '.join(map(str, directories))}")


def _paths(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(directory.glob("checkpoint-*.npz"))
