"""Lines of text in and out: UTF-8, one answer a line, a file written whole or not at all."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from everytoken.errors import UserError


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


@contextmanager
def sink(path: Path | None) -> Iterator[TextIO]:
    """A file to write, which appears when it is complete, or standard output.

    Raises:
        UserError: it can't be written.
    """
    if path is None:
        yield sys.stdout
        return
    part = path.with_name(f"{path.name}.part{os.getpid()}")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise UserError(f"can't write output={path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def lines(stream: BinaryIO, name: str) -> Iterator[str]:
    """Lines of UTF-8 text without their ends and without a byte order mark.

    Args:
        stream: where they come from.
        name: what to call it in messages.

    Raises:
        UserError: bytes that are no UTF-8, with the line's number.
    """
    for number, line in enumerate(iter(stream.readline, b""), start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"line {number} of {name} is not UTF-8: {error.reason}") from error
        yield text.removesuffix("\n").removesuffix("\r")


def one_line(text: str) -> str:
    """A text as one line: its line breaks are shown as ⏎."""
    return re.sub(r"\r\n|\n|\r", "⏎", text)
