"""Files and folders that are there whole or not at all: written beside their place, then moved.

All that a run writes is written by these functions. None follows a link: what has the name of a
file may be another's, in a directory that came from elsewhere, and is replaced. Imports nothing
heavy.
"""

import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from everytoken.errors import UserError

UNFINISHED = ".tmp"
"""Ends the name of what is being written."""


SYNCED_BYTES = 1 << 28
"""Most that a `Steady` file leaves for the system to write later."""


class Steady:
    """A file that is on its way to the disk while it is written, and not all of it at the end.

    What the system would keep back may be more than a slow disk takes in many minutes, in which
    nobody could tell that anything goes on.

    Args:
        file: open for writing.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.unsynced = 0

    def write(self, content: bytes | memoryview) -> int:
        """Write some bytes; how many."""
        view = memoryview(content)
        for begin in range(0, len(view), SYNCED_BYTES):
            self.unsynced += self.file.write(view[begin : begin + SYNCED_BYTES])
            if self.unsynced >= SYNCED_BYTES:
                self.file.flush()
                os.fsync(self.file.fileno())
                self.unsynced = 0
        return len(view)

    def flush(self) -> None:
        """Hand on to the system what was written."""
        self.file.flush()


@contextmanager
def replacing(
    place: Path, *, shared: bool = False, move: Callable[[Path, Path], object] = os.replace
) -> Iterator[Path]:
    """Where to write a file or a folder that takes its place when it is complete.

    Nothing is there yet. If the body fails, or is interrupted, what it wrote is removed and what
    was in its place stays.

    Args:
        place: a file, which may exist, or a folder, which is empty or doesn't exist.
        shared: True if several processes may write it at once: each gets a path of its own.
        move: puts what was written in its place, given both paths.

    Raises:
        OSError: it can't be moved.
    """
    writer = f".{secrets.token_hex(4)}" if shared else ""
    new = place.with_name(f"{place.name}{writer}{UNFINISHED}")
    _remove(new)
    try:
        yield new
        move(new, place)
    finally:
        _remove(new)


def write_whole(file: Path, text: str) -> None:
    """Write a text file so that at any moment it is there as a whole, old or new.

    Raises:
        OSError: it can't be written; the old one stays.
    """
    with replacing(file) as new:
        new.write_text(text, encoding="utf-8", newline="")


def write_json(file: Path, content: Any) -> None:
    """The same, of plain values; JSON has no NaN and no infinity, and null stands for them.

    Raises:
        OSError: it can't be written; the old one stays.
    """
    write_whole(file, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def unlinked(path: str, flags: int) -> int:
    """For `open(file, "a", opener=unlinked)`: to append to a file, but not to what it links to.

    Raises:
        OSError: it is a link.
    """
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def check_inside(folder: Path, home: Path) -> None:
    """Refuse a folder into which another program is going to write, if that would leave a home.

    Args:
        folder: it, and what is in it down to files of its folders.
        home: in which all must stay.

    Raises:
        UserError: with the link that leads out.
    """
    for place in (folder, *folder.glob("*"), *folder.glob("*/*")):
        if place.is_symlink() and not place.resolve().is_relative_to(home.resolve()):
            raise UserError(
                f"{place} is a link to {place.resolve()}, where nothing of this run may be "
                "written: remove it"
            )


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there; a folder as far as it can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
