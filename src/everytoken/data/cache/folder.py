"""Folders that are there whole or not at all: written beside their place, checksummed, then moved.

A folder's files are listed in its checksums.json with their CRC-32. Whatever happens to one of them
later (a byte changed, an end cut off, a file deleted) is found by `check`.
"""

import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from everytoken.errors import one_line
from everytoken.runtime.console import Watch
from everytoken.runtime.files import UNFINISHED, replacing

CHECKSUMS = "checksums.json"
CHECKED = "checked-"
"""Begins the names of files that aren't what the folder keeps: notes of who has checked it."""

BLOCK_BYTES = 1 << 22


class StoreError(Exception):
    """What should be on disk isn't there, or is broken, or can't be written."""


@contextmanager
def store_errors() -> Iterator[None]:
    """What goes wrong with files or their content, as StoreError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(one_line(error)) from error


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which takes its place when all is written, and else is removed.

    Args:
        folder: its place. A whole one that is there already is kept, a damaged one replaced.

    Raises:
        StoreError: it can't be written. What the body raises is handed on.
    """
    with replacing(folder, shared=True, move=_move) as new:
        with store_errors():
            new.mkdir(parents=True)
        yield new
        with store_errors():
            checksums = json.dumps(_checksums(new)) + "\n"
            (new / CHECKSUMS).write_text(checksums, encoding="utf-8")
            for path in new.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())  # or it may be empty after a power cut


@store_errors()
def check(folder: Path) -> None:
    """Compare the files of a folder with its checksums: a pass over all bytes.

    Raises:
        StoreError: there is no such folder, or it isn't as it was written.
    """
    written = dict(json.loads((folder / CHECKSUMS).read_text("utf-8")))
    found = _checksums(folder)
    for name in sorted({*written, *found}):
        if name not in found:
            raise ValueError(f"{name} is missing")
        if written.get(name) != found[name]:
            raise ValueError(f"{name} is not as it was written")


def sweep(folder: Path) -> None:
    """Remove what writers of a folder that were killed have left beside it.

    Only for who holds the folder's lock: nobody else may be writing it.
    """
    for left in folder.parent.glob(f"{folder.name}.*{UNFINISHED}"):
        shutil.rmtree(left, ignore_errors=True)


def _checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of the files of a folder."""
    with Watch(f"computing checksums of {folder}"):
        return {
            path.name: _crc(path)
            for path in sorted(folder.iterdir())
            if path.name != CHECKSUMS and not path.name.startswith(CHECKED)
        }


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            crc = zlib.crc32(block, crc)
    return crc


@store_errors()
def _move(new: Path, folder: Path) -> None:
    """Put a whole folder in its place, unless there is one."""
    try:
        os.replace(new, folder)
    except OSError:
        with suppress(StoreError):
            check(folder)
            return  # another process was faster
        shutil.rmtree(folder)
        os.replace(new, folder)
