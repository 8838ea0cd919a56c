"""Checkpoints: one NumPy archive each, replaced atomically, the last two kept.

The checkpoint of an unfinished run can also be carried: one compressed file of the same name beside
metrics.csv, which a version control system keeps.

A checkpoint holds a digest of its arrays: the check sums of the zip format cover the members, and
not the directory that says where and how long they are.
"""

import hashlib
import pathlib
from collections.abc import Mapping

import numpy as np
from absl import logging

from trpo_repro import files

KEPT = 2
_NAMES = "names of the arrays"
_RUN = "run"
_DIGEST = "digest"  # of arrays and run


class CheckpointError(Exception):
    """No checkpoint could be read; the message names the files."""


def save(
    directory: pathlib.Path,
    iteration: int,
    arrays: Mapping[str, np.ndarray],
    *,
    run: str = "",
    kept: int = KEPT,
    compressed: bool = False,
) -> None:
    """Writes a checkpoint atomically, then deletes older ones, and newer, which are of another run.

    Args:
      directory: directory of the checkpoints; created if need be.
      iteration: completed iterations, the checkpoint's number.
      arrays: by name; object arrays are refused.
      run: digest of the run that it belongs to.
      kept: checkpoints that stay, this one included.
      compressed: by zip's deflate.

    Raises:
      OSError: the disk refused; checkpoints written before are untouched.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write = np.savez_compressed if compressed else np.savez
    name = f"checkpoint-{iteration:08d}.npz"
    with files.replacing(directory / name) as file:
        own = {
            _NAMES: np.array(sorted([*arrays, _DIGEST])),
            _RUN: np.array(run),
            _DIGEST: np.array(_digest(arrays, run)),
        }
        write(file, allow_pickle=False, **arrays, **own)
    paths = _paths(directory)
    end = paths.index(directory / name) + 1
    for path in paths[: max(end - kept, 0)] + paths[end:]:
        path.unlink(missing_ok=True)


def delete(directory: pathlib.Path) -> None:
    """Deletes a directory's checkpoints."""
    for path in _paths(directory):
        path.unlink(missing_ok=True)


def exist(*directories: pathlib.Path) -> bool:
    """Whether there is a checkpoint in one of the directories."""
    return any(_paths(directory) for directory in directories)


def load_latest(*directories: pathlib.Path, run: str | None = None) -> dict[str, np.ndarray]:
    """Returns the arrays of the newest readable checkpoint; says which files are damaged.

    Args:
      directories: where to look.
      run: digest of the run; a checkpoint of another counts as damaged. None takes any.

    Raises:
      CheckpointError: there is none.
    """
    damaged = []
    found = [path for directory in directories for path in _paths(directory)]
    for path in sorted(found, key=lambda path: path.name, reverse=True):
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive)
            owner = arrays.pop(_RUN, None)
            if sorted(arrays.keys() - {_NAMES}) != arrays.pop(_NAMES).tolist():
                raise ValueError("an array is missing")
            if not all(isinstance(array, np.ndarray) for array in arrays.values()):
                raise ValueError("an array is damaged")
            digest = arrays.pop(_DIGEST, None)  # older ones have none
            if digest is not None and str(digest) != _digest(arrays, str(owner)):
                raise ValueError("its digest is another")
            if run is not None and owner is None:
                logging.warning("checkpoint %s does not say of which run it is", path)
            elif run is not None and str(owner) != run:
                raise ValueError("it is of another run")
            return arrays
        except Exception as error:  # damage shows as almost any exception of the zip format
            damaged.append(str(path))
            logging.error("checkpoint %s is not usable (%s); trying the one before", path, error)
    if damaged:
        raise CheckpointError(f"no usable checkpoint; damaged or foreign: {', '.join(damaged)}")
    raise CheckpointError(f"no checkpoint in {', '.join(map(str, directories))}")


def _digest(arrays: Mapping[str, np.ndarray], run: str) -> str:
    digest = hashlib.sha256(run.encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _paths(directory: pathlib.Path) -> list[pathlib.Path]:
    # Only files: reading a named pipe would wait for ever.
    return sorted(path for path in directory.glob("checkpoint-*.npz") if path.is_file())
