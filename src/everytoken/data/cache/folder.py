"""Folders that are there whole or not at all: written aside, sealed with checksums, then moved.

A folder's files are listed in its checksums.json with their CRC-32. Whatever happens to one of them
later (a byte changed, an end cut off, a file deleted) is found by `check`.
"""

import json
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from everytoken.runtime.console import Watch

SEAL = "checksums.json"
BLOCK_BYTES = 1 << 22


class StoreError(Exception):
    """What should be on disk isn't there, or is broken, or can't be written."""


@contextmanager
def store_errors() -> Iterator[None]:
    """What goes wrong with files or their content, as StoreError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(" ".join(str(error).split()) or type(error).__name__) from error


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which takes its place when all is written, and else is removed.

    Args:
        folder: its place. A whole one that is there already is kept, whatever else is there
            replaced.

    Raises:
        StoreError: it can't be written. What the body raises is handed on.
    """
    new = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        with store_errors():
            new.mkdir(parents=True)
        yield new
        with store_errors():
            seal = json.dumps(_checksums(new)) + "\n"
            (new / SEAL).write_text(seal, encoding="utf-8")
            _move(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def check(folder: Path) -> None:
    """Compare the files of a folder with its checksums: a pass over all bytes.

    Raises:
        StoreError: there is no such folder, or it isn't as it was written.
    """
    with store_errors():
        sealed = dict(json.loads((folder / SEAL).read_text("utf-8")))
        found = _checksums(folder)
        for name in sorted({*sealed, *found}):
            if name not in found:
                raise ValueError(f"{name} is missing")
            if sealed.get(name) != found[name]:
                raise ValueError(f"{name} is not as it was written")


def sweep(folder: Path) -> None:
    """Remove what writers of a folder that were killed have left beside it.

    Only for who holds the folder's lock: nobody else may be writing it.
    """
    for left in folder.parent.glob(f"{folder.name}.*"):
        if left.suffix in (".tmp", ".broken"):
            shutil.rmtree(left, ignore_errors=True)


def _checksums(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.iterdir() if path.name != SEAL)
    with Watch(f"computing checksums of {folder}"):
        return {path.name: _crc(path) for path in files}


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            crc = zlib.crc32(block, crc)
    return crc


def _move(new: Path, folder: Path) -> None:
    """Put a whole folder in its place, at once."""
    try:
        os.replace(new, folder)
    except OSError:
        if _is_whole(folder):
            return  # another process was faster
        broken = new.with_suffix(".broken")
        os.replace(folder, broken)
        os.replace(new, folder)
        shutil.rmtree(broken, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    try:
        check(folder)
    except StoreError:
        return False
    return True
