"""Columns of a row, by name, and how names are shown."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from everytoken.errors import UserError

LONGEST_SHOWN = 40
"""Characters of a name: where the first line has none, they may be whole texts."""


def pick(row: Mapping[str, Any], column: str, place: str) -> str:
    """The text of a column; of "a.b", if there is none of this name, what a holds under b.

    Raises:
        UserError: it isn't there, or isn't a text.
    """
    value = value_of(row, column, place)
    what = f"column {column!r}"
    if value is None:
        raise UserError(f"{place}: {what} is null: fill it, or leave the row out")
    if not isinstance(value, str):
        kind = type(value).__name__
        raise UserError(f"{place}: {what} is no text but {kind}: name one of texts")
    check_text(value, what, place)
    return value


def value_of(row: Mapping[str, Any], column: str, place: str) -> Any:
    """What a column holds, of any kind; see `pick`.

    Raises:
        UserError: it isn't there.
    """
    value: Any = row
    for name in [column] if column in row else column.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise UserError(f"{place}: no column {column!r}; there is {shown(row)}")
        value = value[name]
    return value


def check_text(text: str, what: str, place: str) -> None:
    """Refuse a text that can't be written, or that holds what ends a text.

    Raises:
        UserError: with the place.
    """
    if "\0" in text:
        raise UserError(f"{place}: {what} holds a NUL character: take it out")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{place}: {what} holds half a surrogate pair: mend it")


def shown(names: Iterable[str]) -> str:
    """Names in a message, as they would be written in code: blanks of all kinds can be seen."""
    return ", ".join(f"{name!r:.{LONGEST_SHOWN}}" for name in names)


def packed(value: object) -> str:
    """A value as one text, in JSON: equal values give equal texts."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
