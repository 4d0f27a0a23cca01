"""Files with columns, read as streams of rows: .jsonl, .json, .csv, .tsv and .parquet."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everytoken.corpora.columns import pick, shown
from everytoken.corpora.files import ending, lines, lines_with_ends
from everytoken.corpora.separated import AUTOMATIC, Dialect, column_names, separated
from everytoken.errors import UserError, one_line

if TYPE_CHECKING:
    import pyarrow as pa

TableReader = Callable[[Path, Sequence[str], Dialect], Iterator[tuple[str, ...]]]

ROWS_AT_A_TIME = 1000
"""How many rows of Arrow data are made Python objects together."""


def table(
    file: Path, columns: Sequence[str], dialect: Dialect = AUTOMATIC
) -> Iterator[tuple[str, ...]]:
    """Texts of columns of a file, row by row, as they were written.

    Args:
        file: a .jsonl, .json, .csv, .tsv or .parquet file.
        columns: names; but in .csv and .tsv "a.b" may also stand for what a holds under b.
        dialect: how values are written in .csv and .tsv.

    Raises:
        UserError: a file that can't be read in this way, a column that isn't there or isn't text, a
            null, a NUL byte; when it is reached.
    """
    return TABLES[ending(file)](file, columns, dialect)


def rows(file: Path, dialect: Dialect = AUTOMATIC) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row of a file is, in words, and what it holds: in .json and .parquet not only
    texts, but lists and objects.

    Raises:
        UserError: a file that can't be read in this way; when it is reached.
    """
    kind = ending(file)
    if kind == ".parquet":
        for number, row in _parquet_rows(file, None):
            yield f"{file}, row {number}", row
    elif kind in SEPARATED:
        names = column_names(file, dialect)
        for number, values in enumerate(separated(file, names, dialect), start=1):
            yield f"{file}, row {number}", dict(zip(names, values, strict=True))
    else:
        objects = _objects_of_lines if kind in LINES else _objects
        for row, place in objects(file):
            yield place, _object(row, place)


def parsed(text: str, place: str) -> dict[str, Any]:
    """What a line of JSON holds.

    Raises:
        UserError: it is no object.
    """
    return _object(_json(text, place), place)


def _json_rows(file: Path, columns: Sequence[str], _: Dialect) -> Iterator[tuple[str, ...]]:
    for row, place in _objects(file):
        yield _row(row, columns, place)


def _json_lines(file: Path, columns: Sequence[str], _: Dialect) -> Iterator[tuple[str, ...]]:
    for row, place in _objects_of_lines(file):
        yield _row(row, columns, place)


def _objects(file: Path) -> Iterator[tuple[Any, str]]:
    """What a .json file holds: JSON lines, or one array of objects, which is then in memory."""
    first = next((line.lstrip() for line in lines(file) if line.strip()), "")
    if not first.startswith("["):
        yield from _objects_of_lines(file)
        return
    rows = _json("".join(lines_with_ends(file)), str(file))
    for number, row in enumerate(rows, start=1):
        yield row, f"{file}, row {number}"


def _objects_of_lines(file: Path) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(lines(file), start=1):
        if line.strip():
            place = f"{file}, line {number}"
            yield _json(line, place), place


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{place}: not JSON ({error}): give a line, or in .json an array, of objects, as {{…}}"
        ) from error


def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different; JSON itself would keep the last of equal ones.

    Raises:
        ValueError: with the name.
    """
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has {twice!r} more than once")
    return row


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{place}: must be an object with columns, as {{…}}")
    return row


def _row(row: Any, columns: Sequence[str], place: str) -> tuple[str, ...]:
    return tuple(pick(_object(row, place), column, place) for column in columns)


def _parquet(file: Path, columns: Sequence[str], _: Dialect) -> Iterator[tuple[str, ...]]:
    for number, row in _parquet_rows(file, columns):
        place = f"{file}, row {number}"
        yield tuple(pick(row, column, place) for column in columns)


def _parquet_rows(file: Path, texts: Sequence[str] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows and their numbers; of all columns, or of some that must hold texts."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(file if isinstance(file, Path) else file.open("rb")) as parquet:
            for column in texts or ():
                _check_type(parquet.schema_arrow, column, file)
            columns = None if texts is None else sorted(set(texts))
            for batch in parquet.iter_batches(ROWS_AT_A_TIME, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        reason = one_line(error)
        raise UserError(f"{file}: broken parquet after row {number} ({reason})") from error


def _check_type(schema: "pa.Schema", column: str, file: Path) -> None:
    """Refuse a column that isn't there, or that holds no texts."""
    from pyarrow import types

    first, *rest = [column] if column in schema.names else column.split(".")
    if (count := schema.names.count(first)) != 1:
        problem = "no" if not count else f"{count} times the"
        raise UserError(f"{file} has {problem} column {column!r}; it has {shown(schema.names)}")
    kind = schema.field(first).type
    for name in rest:
        if not types.is_struct(kind) or kind.get_field_index(name) < 0:
            raise UserError(f"{file} has no column {column!r}; {first!r} is {kind}")
        kind = kind.field(name).type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if not any(
        is_text(kind)
        for is_text in (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    ):
        raise UserError(f"{file}: column {column!r} is no text but {kind}: name one of texts")


LINES = (".jsonl", ".ndjson")
"""Files with an object in each line."""

SEPARATED = (".csv", ".tsv")

TABLES: dict[str, TableReader] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_rows,
    ".csv": separated,
    ".tsv": separated,
    ".parquet": _parquet,
}
"""How files with columns are read, by their ending."""
