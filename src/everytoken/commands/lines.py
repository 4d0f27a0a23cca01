"""Lines of text in and out: UTF-8, one answer a line, a file written whole or not at all."""

import io
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from everytoken.config.literal import shell_word
from everytoken.corpora.files import decoded, without_end
from everytoken.errors import UserError
from everytoken.runtime.files import replacing
from everytoken.runtime.visible import visible

COLUMNS = (".csv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".xlsx")
"""What names of files end in whose lines are more than a text; a .tsv may be two texts a line."""

UNPACKED_BY = {
    ".gz": "gzip -dk",
    ".bz2": "bzip2 -dk",
    ".xz": "xz -dk",
    ".zst": "zstd -d",
    ".zip": "unzip",
}


def check_lines(path: Path, command: str, allowed: Collection[str] = ()) -> None:
    """Refuse a file that isn't a text in each line, and would be answered as if it were.

    Args:
        path: the file.
        command: what answers lines of standard input as they stand.
        allowed: endings of files that can be read here.

    Raises:
        UserError: with what to type.
    """
    ending = path.suffix.lower()
    if unpack := UNPACKED_BY.get(ending):
        raise UserError(f"input={path} is packed: type {unpack} {shell_word(str(path))} first")
    if ending in COLUMNS and ending not in allowed:
        raise UserError(
            f"input={path} has columns, and each line would be answered as a text: write the texts "
            f"alone to a file of lines; or, if its lines are the texts: {command} < "
            f"{shell_word(str(path))}"
        )


@contextmanager
def source(path: Path | None) -> Iterator[BinaryIO]:
    """A file to read, or standard input.

    Raises:
        UserError: it can't be read.
    """
    if path is None:
        yield sys.stdin.buffer
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"can't read input={path}: {error.strerror}") from error
    with file:
        yield file


class Screen(io.TextIOBase):
    """A terminal, on which no answer can move the cursor; a pipe or a file gets it as it is."""

    def __init__(self, terminal: TextIO) -> None:
        self.terminal = terminal

    def write(self, text: str, /) -> int:
        """Write it as it can be seen."""
        return self.terminal.write(visible(text))

    def flush(self) -> None:
        """Show what was written."""
        self.terminal.flush()


@contextmanager
def sink(path: Path | None) -> Iterator[TextIO | Screen]:
    """A file to write, which appears when it is complete, or standard output.

    Raises:
        UserError: it can't be written.
    """
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as what is read, whatever the locale
        yield Screen(sys.stdout) if sys.stdout.isatty() else sys.stdout
        return
    try:
        with (
            replacing(path, shared=True) as new,
            new.open("w", encoding="utf-8", newline="\n") as file,
        ):
            yield file
    except OSError as error:
        raise UserError(f"can't write output={path}: {error.strerror}") from error


def count(path: Path) -> int | None:
    """How many lines a file has; None if it isn't one that can be read twice (a pipe, say)."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return sum(1 for _ in file)


def lines(stream: BinaryIO, name: str) -> Iterator[str]:
    """Lines of UTF-8 text without their ends, each as soon as it is there.

    Args:
        stream: where they come from.
        name: what to call it in messages.

    Raises:
        UserError: as `decoded` does.
    """
    return map(without_end, decoded(iter(stream.readline, b""), name))


def breaks_shown(text: str) -> str:
    """A text as one line: its line breaks are shown as ⏎."""
    return re.sub(r"\r\n|\n|\r", "⏎", text)
