"""Files with a separator between values: .csv and .tsv, row by row.

Whether quotes enclose values or are text isn't said in a file. In .csv files they enclose (RFC
4180), in most .tsv files of parallel texts they are text. Read in the wrong way, a file gives other
texts, or many rows as one value, without any error. So a file is read as all of its rows fit, and
where both ways fit and give other texts, it is refused until one is chosen.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from everytoken.corpora.columns import shown
from everytoken.corpora.files import ending, lines_with_ends, state, without_end
from everytoken.errors import UserError

if TYPE_CHECKING:
    import _csv

LARGEST_CSV_FIELD = 2**31 - 1
"""In characters; the csv module refuses more than 128 KiB unless told otherwise."""

ENCLOSED = re.compile(r'"(?:[^"]|"")*+"')
"""A value that is quoted as RFC 4180 says, ..."""

DOUBLED = re.compile(r'"[^"]*""(?:[^"]|"")*"')
"""... and holds quotes, which are doubled."""

NAMED = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
"""Separators by a name, since most of them are awkward to type."""

CHOOSE = "set data.quoted=false if its quotes are text, or data.quoted=true if they enclose values"

Lines = Iterator[tuple[int, str]]
"""Lines with their numbers and ends."""


@dataclass(frozen=True)
class Dialect:
    """How values of .csv and .tsv files are written.

    Args:
        separator: the character between values; None for a tab in .tsv and a comma otherwise.
        quoted: True if quotes around a value aren't part of it, False if all quotes are text, None
            if that is to be seen from each file.
        column_names: of files without a line of names; None if their first line has them.

    Raises:
        UserError: no such separator or choice.
    """

    separator: str | None = None
    quoted: bool | None = None
    column_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        separator = self.separator
        given = separator is not None and separator not in NAMED
        if given and (len(str(separator)) != 1 or str(separator) in '"\r\n'):
            raise UserError(
                f"data.separator must be one character or {', '.join(NAMED)}, got {separator!r}"
            )
        if self.quoted not in (None, True, False):
            raise UserError(f"data.quoted must be true, false or null, got {self.quoted!r}")
        names = self.column_names
        if names is not None and (isinstance(names, str) or not names):
            raise UserError(f"data.column_names must be a list such as [en,de], got {names!r}")

    def between(self, file: Path) -> str:
        """The separator of a file."""
        if self.separator is None:
            return "\t" if ending(file) == ".tsv" else ","
        return NAMED.get(self.separator, str(self.separator))


AUTOMATIC = Dialect()


def separated(file: Path, columns: Sequence[str], dialect: Dialect) -> Iterator[tuple[str, ...]]:
    """Texts of columns, row by row; raises as `tables.table` does."""
    separator = dialect.between(file)
    header, indices = None, []
    if dialect.column_names is not None:
        header = [str(name) for name in dialect.column_names]
        indices = [_index(header, column, file, separator) for column in columns]
    for number, row in _rows(file, separator, dialect):
        if header is None:
            header = row
            indices = [_index(header, column, file, separator) for column in columns]
        elif len(row) != len(header):
            raise UserError(
                f"{file}, line {number}: {len(row)} values but {len(header)} columns "
                f"({shown(header)}): {_way(row, header, separator, dialect)}"
            )
        elif number == 1 and row == header:
            raise UserError(
                f"{file}: its first line has the names of data.column_names, and would be read as "
                "an example: leave data.column_names out"
            )
        else:
            yield tuple(row[index] for index in indices)
    if header is None:
        raise UserError(f"{file} is empty: its first line must name the columns")


def column_names(file: Path, dialect: Dialect) -> list[str]:
    """What the columns of a file are called; raises as `tables.table` does."""
    if dialect.column_names is not None:
        return [str(name) for name in dialect.column_names]
    names = next((row for _, row in _rows(file, dialect.between(file), dialect)), None)
    if names is None:
        raise UserError(f"{file} is empty: its first line must name the columns")
    return names


def _way(row: list[str], header: list[str], separator: str, dialect: Dialect) -> str:
    if any("\n" in value for value in row):
        return (
            "one goes on to another line: close its quote, or set data.quoted=false if it is text"
        )
    if len(row) < len(header):
        return "give it a value for each"
    way = "take it out of" if dialect.quoted is False else "quote"
    return f"{way} values that hold a {separator!r}"


def _index(header: Sequence[str], column: str, file: Path, separator: str) -> int:
    if (count := header.count(column)) == 1:
        return header.index(column)
    problem = "no" if not count else f"{count} times the"
    likely = [n for n, c in NAMED.items() if len(header) == 1 and separator != c and c in header[0]]
    hint = ""
    if likely:
        hint = f": if values are separated by {NAMED[likely[0]]!r}, set data.separator={likely[0]}"
    elif not count:
        hint = ": if its first line has no names, give them as data.column_names=[…]"
    raise UserError(f"{file} has {problem} column {column!r}; it has {shown(header)}{hint}")


def _rows(file: Path, separator: str, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Rows that aren't blank, with the numbers of their first lines."""
    lines: Lines = enumerate(lines_with_ends(file), start=1)
    quoted = said = dialect.quoted
    for number, line in lines if said is None else ():
        row = without_end(line).split(separator)
        if '"' in line and any(value.startswith('"') for value in row):
            if number == 1 and dialect.column_names is None and all(map(ENCLOSED.fullmatch, row)):
                said = True  # names of columns have no quotes of their own
            quoted = said or _is_quoted(file, separator, str(state([file])))
            lines = chain([(number, line)], lines)
            break  # up to here both ways are the same
        if row != [""]:
            yield number, row
    if quoted:
        yield from _enclosed(file, lines, separator, said is None)
    else:
        plain = ((number, without_end(line).split(separator)) for number, line in lines)
        yield from ((number, row) for number, row in plain if row != [""])


def _enclosed(
    file: Path, lines: Lines, separator: str, seen: bool
) -> Iterator[tuple[int, list[str]]]:
    """Rows whose values may be quoted; if that was only seen, none may look like several rows."""
    read: list[tuple[int, str]] = []  # the lines of one row

    def watched() -> Iterator[str]:
        for numbered in lines:
            read.append(numbered)
            yield numbered[1]

    try:
        for row in _csv_rows(watched(), separator):
            (begin, _), *rest = read
            if seen and rest and _swallows(file, [line for _, line in read], separator, len(row)):
                raise UserError(
                    f"{file}, line {begin}: a value that begins with a quote would go on to line "
                    f"{rest[-1][0]}: {CHOOSE}"
                )
            read.clear()
            if row:
                yield begin, row
    except csv.Error as error:
        number, problem = _misquoted(read, separator) or (read[0][0], _reason(error))
        raise UserError(
            f"{file}, line {number}: can't be read as a row ({problem}): quote values that hold "
            "quotes, and double these; or set data.quoted=false if its quotes are text"
        ) from error


def _csv_rows(lines: Iterator[str], separator: str) -> "_csv.Reader":
    csv.field_size_limit(LARGEST_CSV_FIELD)
    return csv.reader(lines, delimiter=separator, strict=True)


def _misquoted(read: Sequence[tuple[int, str]], separator: str) -> tuple[int, str] | None:
    """The line of a row in which a quote opens that isn't closed as it must be, and how."""
    text = "".join(line for _, line in read)
    plain = re.compile(rf"[^{re.escape(separator)}\n]*")
    place = 0
    while place < len(text):
        value = (ENCLOSED if text[place] == '"' else plain).match(text, place)
        after = text[value.end() : value.end() + 30] if value else ""
        if value is None or (after and not after.startswith((separator, "\n", "\r\n"))):
            opened = read[0][0] + text.count("\n", 0, place)
            if value is None:
                return opened, "the quote that opens here is never closed"
            closed, rest = opened + value[0].count("\n"), after.splitlines()[0]
            return opened, f"the quote that opens here closes on line {closed}, before {rest!r}"
        place = value.end() + 1
    return None


def _reason(error: csv.Error) -> str:
    if "new-line character" in str(error):
        return "a carriage return in a value that isn't quoted"
    return str(error)


def _swallows(file: Path, read: Sequence[str], separator: str, columns: int) -> bool:
    """Whether a row of several lines may as well be several rows.

    Texts rarely hold tabs, so where they separate, it's enough that most of these lines are rows.
    Commas they do hold, so there it takes that all lines of the file are.
    """
    alike = sum(line.count(separator) == columns - 1 for line in read)
    return 2 * alike > len(read) and (
        separator == "\t" or _fits_plain(file, separator, str(state([file])))
    )


@lru_cache
def _fits_plain(file: Path, separator: str, version: str) -> bool:
    """Whether all lines that aren't blank have as many values if no quotes enclose any."""
    lines = (line for line in lines_with_ends(file) if without_end(line))
    columns = next(lines, "").count(separator)
    return all(line.count(separator) == columns for line in lines)


def _misfit_if_quoted(file: Path, separator: str) -> int:
    """About the first line that can't be a row if quotes enclose values; 0 if all can."""
    rows = _csv_rows(iter(lines_with_ends(file)), separator)
    columns = 0
    try:
        for row in rows:
            columns = columns or len(row)
            if row and len(row) != columns:
                return rows.line_num
    except csv.Error:
        return rows.line_num
    return 0


@lru_cache
def _is_quoted(file: Path, separator: str, version: str) -> bool:
    """Whether quotes enclose values in a file that has values which begin with one.

    Args:
        file: the file.
        separator: between values.
        version: changes with the file.

    Raises:
        UserError: both may be.
    """
    if separator != "\t" or not _fits_plain(file, separator, version):
        return True
    first = enclosed = 0  # lines
    for number, line in enumerate(lines_with_ends(file), start=1):
        for value in without_end(line).split(separator) if '"' in line else ():
            if value.startswith('"'):
                first = first or number
                enclosed = enclosed or (number if DOUBLED.fullmatch(value) else 0)
    misfit = _misfit_if_quoted(file, separator)
    if not misfit:
        raise UserError(f"{file}, line {first}: a quote that begins a value may be text: {CHOOSE}")
    if enclosed:
        raise UserError(f"{file}: line {enclosed} is quoted, but line {misfit} can't be: {CHOOSE}")
    return False
