"""Tables: CSV files to read and write, and Markdown."""

import csv
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def read_csv(path: pathlib.Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file, by column."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns rows as the text of a CSV file; cells that a row lacks are empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Returns the lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines]


def counted(count: int, thing: str) -> str:
    """Returns a number of things in words, such as `1 seed` and `5 seeds`."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def grouped(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str]
) -> dict[tuple, list[Mapping[str, Any]]]:
    """Returns rows by their values in some columns, in the order of first appearance."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def _escaped(cell: Any) -> str:
    return str(cell).replace("|", "\\|")
