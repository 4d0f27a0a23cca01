"""Files of texts, read as streams.

Only a line feed ends a line, with or without a carriage return before it: other characters that
Unicode calls line breaks are text. A byte order mark isn't text. Files are UTF-8; what can't be
read as it was meant is refused with its place, never repaired.
"""

import csv
import glob
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from everytoken.errors import UserError

Paths = str | Sequence[str]
"""A file, a folder (all files in it that can be read), a pattern such as a/**/*.txt, or several."""

TableReader = Callable[[Path, Sequence[str]], Iterator[tuple[str, ...]]]

LARGEST_CSV_FIELD = 2**31 - 1
"""In characters; the csv module refuses more than 128 KiB unless told otherwise."""

ROWS_AT_A_TIME = 1000
"""How many rows of Arrow data are made Python objects together."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def find(paths: Paths, endings: Iterable[str] | None) -> list[Path]:
    """The files that paths name, in order; those of a folder or pattern by name.

    Args:
        endings: what files may end in; others in a folder aren't meant. None for any.

    Raises:
        UserError: a path or pattern that leads to no file, or a file that ends in something else.
    """
    files = []
    for path in paths if isinstance(paths, Sequence) and not isinstance(paths, str) else [paths]:
        place = Path(str(path)).expanduser()
        if place.is_file():
            found = [place]
        elif place.is_dir():
            found = sorted(file for file in place.rglob("*") if _is_data(file, place, endings))
            if not found:
                raise UserError(f"folder {path} has nothing to read: {_known(endings)}")
        elif glob.has_magic(str(place)):
            matches = (Path(match) for match in glob.glob(str(place), recursive=True))
            found = sorted(match for match in matches if match.is_file())
            if not found:
                raise UserError(f"no file matches {path}")
        else:
            raise UserError(f"no file {path}: give a file, a folder or a pattern such as a/*.txt")
        files += found
    if not files:
        raise UserError("the list of files is empty: give a file, a folder or a pattern")
    for file in files:
        if endings is not None and ending(file) not in endings:
            raise UserError(f"can't read {file}: {_known(endings)}")
    return files


def _is_data(file: Path, folder: Path, endings: Iterable[str] | None) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.is_file() and not hidden and (endings is None or ending(file) in endings)


def _known(endings: Iterable[str] | None) -> str:
    if endings is None:
        return "it is empty"
    return f"names of files must end in {', '.join(endings)} (or .gz after it)"


def ending(file: Path) -> str:
    """What tells how a file is read: its last suffix, and that before .gz if it ends so."""
    name = file.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    return f"{suffix}.gz" if suffix == ".parquet" and name.endswith(".gz") else suffix


def listed(files: Sequence[Path]) -> str:
    """Some of the files, in words."""
    names = ", ".join(map(str, files[:2]))
    return names if len(files) <= 2 else f"{names} and {len(files) - 2} more"


def state(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Absolute path, size in bytes and time of change in ns of each file."""
    stats = ((file, file.stat()) for file in files)
    return [(str(file.resolve()), stat.st_size, stat.st_mtime_ns) for file, stat in stats]


def lines(file: Path) -> Iterator[str]:
    """The lines of a text file, blank ones too, without their ends.

    Raises:
        UserError: a missing or broken file, invalid UTF-8, a NUL byte; when it is reached.
    """
    return map(_without_end, _lines_with_ends(file))


def documents(file: Path) -> Iterator[str]:
    """The one text of a text file, its lines ended by line feeds only; all of it is in memory.

    Raises:
        UserError: as `lines` does.
    """
    yield "".join(
        f"{_without_end(line)}\n" if line.endswith("\n") else line
        for line in _lines_with_ends(file)
    )


def table(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Texts of columns of a .jsonl, .csv, .tsv or .parquet file, row by row.

    Args:
        columns: names; in .jsonl and .parquet "a.b" may also stand for what a holds under b.

    Raises:
        UserError: a file that can't be read in this way, a column that isn't there or isn't text, a
            null, a NUL byte; when it is reached.
    """
    return TABLES[ending(file)](file, columns)


def _lines_with_ends(file: Path) -> Iterator[str]:
    number = 0
    try:
        with gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if number == 1:
                    line = line.removeprefix(BYTE_ORDER_MARK)
                    if not line:
                        return  # nothing but the mark
                try:
                    text = line.decode()
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{file}, line {number}: byte {error.start + 1} of the line "
                        f"(0x{line[error.start]:02x}) isn't UTF-8: save the file as UTF-8"
                    ) from error
                if "\0" in text:
                    raise UserError(
                        f"{file}, line {number}: NUL at character {text.index(chr(0)) + 1}: "
                        "is this a text file? Take it out"
                    )
                yield text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{file}: broken gzip after line {number} ({error}): fetch the file again"
        ) from error
    except OSError as error:
        raise UserError(f"can't read {file}: {error.strerror or error}") from error


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


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
        rows = csv.reader(_lines_with_ends(file), delimiter=delimiter, strict=True)
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
            raise UserError(f"{file}, line {begin}: can't be read as a row ({error})") from error
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
        reason = " ".join(str(error).split())
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
