"""Rows, and what their classes are called that are stored as numbers, if `datasets` says it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from everytoken.corpora.files import ending
from everytoken.corpora.separated import AUTOMATIC, Dialect
from everytoken.corpora.tables import rows
from everytoken.errors import UserError

ClassNames = Mapping[str, Sequence[str]]
"""By column: the name of 0, of 1, …"""


class Row(NamedTuple):
    """A row of a table."""

    place: str
    """Where it is, in words."""
    values: Mapping[str, Any]
    """What it holds, by column."""
    names: ClassNames = MappingProxyType({})


def chosen(names: object) -> list[str] | None:
    """What data.names says that classes of numbers are called; None for nothing.

    Raises:
        UserError: it is no list of names.
    """
    if names is None:
        return None
    if not isinstance(names, Sequence) or isinstance(names, str) or not names:
        raise UserError(f"data.names must be a list of names, as [O,B-PER], got {names!r:.60}")
    return [*map(str, names)]


def named_rows(file: Path, dialect: Dialect = AUTOMATIC) -> Iterator[Row]:
    """The rows of a file, as `tables.rows` reads them."""
    names = names_in(file)
    yield from (Row(place, values, names) for place, values in rows(file, dialect))


def names_of(features: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Of the columns that are `ClassLabel`s, or lists of them."""
    from datasets import ClassLabel

    found: dict[str, list[str]] = {}
    for column, kind in (features or {}).items():
        while hasattr(kind, "feature"):  # a list
            kind = kind.feature
        if isinstance(kind, ClassLabel) and kind.names:
            found[column] = [*map(str, kind.names)]
    return found


def names_in(file: Path) -> dict[str, list[str]]:
    """What a .parquet file says of its columns; other files say nothing.

    What can't be read is told when its rows are.
    """
    if ending(file) != ".parquet":
        return {}
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    try:
        schema = read_schema(file)
    except (ArrowException, OSError):
        return {}
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    from datasets import Features

    return names_of(Features.from_arrow_schema(schema))
