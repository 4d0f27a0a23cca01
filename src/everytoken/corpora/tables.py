"""Files with columns, read as streams of rows: .jsonl, .csv, .tsv and .parquet."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from everytoken.corpora.files import ending, lines, lines_with_ends
from everytoken.errors import UserError, one_line

TableReader = Callable[[Path, Sequence[str]], Iterator[tuple[str, ...]]]

LARGEST_CSV_FIELD = 2**31 - 1
"""In characters; the csv module refuses more than 128 KiB unless told otherwise."""

ROWS_AT_A_TIME = 1000
"""How many rows of Arrow data are made Python objects together."""


def table(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Texts of columns of a .jsonl, .csv, .tsv or .parquet file, row by row.

    Args:
        columns: names; in .jsonl and .parquet "a.b" may also stand for what a holds under b.

    Raises:
        UserError: a file that can't be read in this way, a column that isn't there or isn't text, a
            null, a NUL byte; when it is reached.
    """
    return TABLES[ending(file)](file, columns)


def _json_lines(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for number, line in enumerate(lines(file), start=1):
        if line.strip():
            place = f"{file}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{place}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise UserError(f"{place}: a line must be an object with columns, as {{…}}")
            yield tuple(pick(row, column, place) for column in columns)


def _separated(delimiter: str) -> TableReader:
    def read(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
        csv.field_size_limit(LARGEST_CSV_FIELD)
        rows = csv.reader(lines_with_ends(file), delimiter=delimiter, strict=True)
        header: list[str] = []
        indices: list[int] = []
        begin = 1
        try:
            for row in rows:
                place, begin = f"{file}, line {begin}", rows.line_num + 1
                if not row:
                    continue
                if not header:
                    header = row
                    indices = [_index(header, column, file) for column in columns]
                elif len(row) != len(header):
                    raise UserError(
                        f"{place}: {len(row)} values but {len(header)} columns "
                        f"({', '.join(header)}): quote values that hold a {delimiter!r}"
                    )
                else:
                    yield tuple(row[index] for index in indices)
        except csv.Error as error:
            raise UserError(
                f"{file}, line {begin}: can't be read as a row ({error}): quote "
                "values that hold quotes, and double these"
            ) from error
        if not header:
            raise UserError(f"{file} is empty: its first line must name the columns")

    return read


def _index(header: Sequence[str], column: str, file: Path) -> int:
    if (count := header.count(column)) != 1:
        problem = "no" if not count else f"{count} times the"
        raise UserError(f"{file} has {problem} column {column!r}; it has {', '.join(header)}")
    return header.index(column)


def _parquet(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            tops = {c if c in names else c.partition(".")[0] for c in columns}
            if missing := sorted(tops - set(names)):
                raise UserError(f"{file} has no column {missing[0]!r}; it has {', '.join(names)}")
            for batch in parquet.iter_batches(ROWS_AT_A_TIME, columns=sorted(tops)):
                for row in batch.to_pylist():
                    number += 1
                    place = f"{file}, row {number}"
                    yield tuple(pick(row, column, place) for column in columns)
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        reason = one_line(error)
        raise UserError(f"{file}: broken parquet after row {number} ({reason})") from error


TABLES: dict[str, TableReader] = {
    ".jsonl": _json_lines,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".parquet": _parquet,
}
"""How files with columns are read, by their ending."""


def pick(row: Mapping[str, Any], column: str, place: str) -> str:
    """The text of a column; of "a.b", if there is none of this name, what a holds under b.

    Raises:
        UserError: it isn't there, or isn't a text.
    """
    value: Any = row
    for name in [column] if column in row else column.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise UserError(f"{place}: no column {column!r}; there is {', '.join(row)}")
        value = value[name]
    if value is None:
        raise UserError(f"{place}: column {column!r} is null: fill it, or leave the row out")
    if not isinstance(value, str):
        kind = type(value).__name__
        raise UserError(f"{place}: column {column!r} is no text but {kind}: name one of texts")
    if "\0" in value:
        raise UserError(f"{place}: column {column!r} holds a NUL character: take it out")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{place}: column {column!r} holds half a surrogate pair: mend it")
    return value
