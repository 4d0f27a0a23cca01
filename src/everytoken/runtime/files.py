"""Files and folders that are there whole or not at all: written beside their place, then moved.

Imports nothing heavy.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".tmp"
"""Ends the name of what is being written."""


@contextmanager
def replacing(
    place: Path, *, shared: bool = False, move: Callable[[Path, Path], object] = os.replace
) -> Iterator[Path]:
    """Where to write a file or a folder that takes its place when it is complete.

    If the body fails, or is interrupted, what it wrote is removed and what was there stays.

    Args:
        place: a file, which may exist, or a folder, which is empty or doesn't exist.
        shared: True if several processes may write it at once: each gets a path of its own.
        move: puts what was written in its place, given both paths.

    Raises:
        OSError: it can't be moved.
    """
    writer = f".{secrets.token_hex(4)}" if shared else ""
    new = place.with_name(f"{place.name}{writer}{UNFINISHED}")
    try:
        yield new
        move(new, place)
    finally:
        if new.is_dir():
            shutil.rmtree(new, ignore_errors=True)
        else:
            new.unlink(missing_ok=True)


def write_whole(file: Path, text: str) -> None:
    """Write a text file so that at any moment it is there as a whole, old or new.

    Raises:
        OSError: it can't be written; the old one stays.
    """
    with replacing(file) as new:
        new.write_text(text, encoding="utf-8", newline="")
