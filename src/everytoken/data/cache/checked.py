"""Checksums of what is large are compared once on each machine, and not by each rank at each start.

Whoever did it leaves a note in the folder: the size, times and number of each file. It holds for as
long as these stay as they are, and for a week: what a disk changes by itself has no time of change.
"""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from everytoken.data.cache.folder import CHECKED, check, store_errors
from everytoken.runtime.files import write_json
from everytoken.runtime.locks import acquire

LARGE_BYTES = 1 << 26
"""What is smaller is compared at each start: that takes less than a tenth of a second."""

VALID_SECONDS = 7 * 24 * 3600


def check_once(folder: Path) -> None:
    """Compare the files of a folder with its checksums, unless this machine has done it.

    Raises:
        StoreError: there is no such folder, or it isn't as it was written.
    """
    with store_errors():
        files = _state(folder)
    if sum(size for size, *_ in files.values()) < LARGE_BYTES:
        check(folder)
        return
    note = folder / f"{CHECKED}{socket.gethostname()}.json"
    if _holds(note, files):
        return
    with _alone(note.with_suffix(".lock"), folder):
        if _holds(note, files):
            return
        check(folder)
        with suppress(OSError):  # where nobody may write, all compare
            write_json(note, {"files": files, "at": time.time()})


def _state(folder: Path) -> dict[str, list[int]]:
    stats = [
        (path.name, path.stat()) for path in folder.iterdir() if not path.name.startswith(CHECKED)
    ]
    return {n: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for n, s in sorted(stats)}


def _holds(note: Path, files: dict[str, list[int]]) -> bool:
    try:
        found: dict[str, Any] = json.loads(note.read_text("utf-8"))
        return found["files"] == files and 0 <= time.time() - found["at"] < VALID_SECONDS
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def _alone(file: Path, folder: Path) -> Iterator[None]:
    """One process of this machine at a time, where there are locks."""
    lock = FileLock(file)
    with suppress(NotImplementedError, OSError):
        acquire(lock, f"waiting for another process that checks {folder}")
    try:
        yield
    finally:
        lock.release()
