"""Locks between the processes of a machine, which the system takes from one that was killed."""

from contextlib import suppress

from filelock import FileLock, Timeout

from everytoken.runtime.console import log
from everytoken.runtime.together import beat

PATIENCE_SECONDS = 5.0
"""How long another process may hold a lock before it is logged that this one waits."""


def acquire(lock: FileLock, told: str) -> None:
    """Lock, however long another process holds it; after a while it is told that it does.

    Raises:
        NotImplementedError: a file system without locks.
        OSError: the lock's file can't be made.
    """
    try:
        lock.acquire(timeout=PATIENCE_SECONDS)
    except Timeout:
        log(f"{told} ({lock.lock_file})")
        while not lock.is_locked:
            beat()  # who holds it lives: the system would have unlocked it
            with suppress(Timeout):
                lock.acquire(timeout=PATIENCE_SECONDS)
