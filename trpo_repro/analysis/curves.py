"""Learning curves as arrays, from metrics.csv files."""

import csv
import functools
import pathlib

import numpy as np


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns a metrics.csv by column, [iterations] each; empty cells are NaN.

    `seconds`, since the run began, is added: of sampling and updates. The arrays are read-only.

    Raises:
      ValueError: the file has no rows, or is damaged.
    """
    status = path.stat()
    # Figures and tables read the same curves, many times: a file that is the same is not parsed
    # again.
    return dict(_parse(path.absolute(), status.st_ino, status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=4096)
def _parse(path: pathlib.Path, *_: int) -> dict[str, np.ndarray]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # with a byte order mark, or not
            rows = list(csv.DictReader(file, restkey="", restval=None))
    except (csv.Error, UnicodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not rows:
        raise ValueError(f"{path} has no rows")
    if any("" in row or None in row.values() for row in rows):
        raise ValueError(f"{path} is damaged: its rows differ in length")
    columns = {}
    for name in rows[0]:
        cells = [row[name] for row in rows]
        try:
            columns[name] = np.array([float(cell) if cell else np.nan for cell in cells])
        except ValueError:
            columns[name] = np.array(cells)
    if "seconds" not in columns and "seconds_update" in columns:
        columns["seconds"] = np.cumsum(columns["seconds_sampling"] + columns["seconds_update"])
    for column in columns.values():
        column.flags.writeable = False
    return columns
