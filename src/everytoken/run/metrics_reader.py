"""Reads metrics.csv, without Lightning, which writes it."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from everytoken.run.directory import Run


def read_metrics(run: Run) -> list[dict[str, float]]:
    """The lines of a run's metrics.csv: the numbers in each by column; none if there is no file.

    A line that is being written may be cut off: fields that can't be read are left out, as those
    that are empty are.

    Raises:
        OSError: the file can't be read.
    """
    return [dict(_numbers(row)) for row in read_table(run.path / "metrics.csv")[1]]


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns, and the fields of each line by column; a line that is cut off lacks some."""
    if not path.exists():
        return [], []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        header, *rows = list(csv.reader(line.replace("\0", "") for line in file)) or [[]]
    return header, [dict(zip(header, row, strict=False)) for row in rows if row]


def _numbers(row: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    for column, text in row.items():
        try:
            yield column, float(text)
        except ValueError:
            continue
