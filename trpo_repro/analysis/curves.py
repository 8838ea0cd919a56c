"""Learning curves as arrays, from metrics.csv files."""

import csv
import pathlib

import numpy as np


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns a metrics.csv by column, [iterations] each; empty cells are NaN.

    Raises:
      ValueError: the file has no rows.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path} has no rows")
    columns = {}
    for name in rows[0]:
        cells = [row[name] for row in rows]
        try:
            columns[name] = np.array([float(cell) if cell else np.nan for cell in cells])
        except ValueError:
            columns[name] = np.array(cells)
    return columns
