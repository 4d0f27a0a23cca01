"""One process trains in a run directory: a lock that goes with the last process that holds it."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from everytoken.errors import UserError
from everytoken.runtime.files import unlinked

SECONDS = 10
"""How long the processes of a run that was killed may take to be gone."""

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems without locks say."""


@contextmanager
def lock(file: Path, place: str) -> Iterator[None]:
    """Hold a lock; on file systems that have none, nothing is held.

    Processes that are started meanwhile may hold it too (`close_fds=False`): while one of them
    lives nobody else gets it, whatever has become of this one.

    Args:
        file: of the lock.
        place: what it guards, for the message.

    Raises:
        UserError: another process has it, or it can't be made.
    """
    deadline = time.monotonic() + SECONDS
    try:
        while (held := _attempt(file)) is None:
            if time.monotonic() > deadline:
                raise UserError(
                    f"another process is training in {place}: wait until it has ended, or stop it"
                )
            time.sleep(0.05)
    except OSError as error:
        reason = "it is a link, remove it" if error.errno == errno.ELOOP else error.strerror
        raise UserError(f"can't lock {place} ({file}: {reason})") from error
    try:
        os.set_inheritable(held, True)
        yield
    finally:
        os.close(held)


def is_locked(file: Path) -> bool:
    """True if a process holds the lock."""
    try:
        held = _attempt(file) if file.exists() else -1
    except OSError:
        return False
    if held is None:
        return True
    if held >= 0:
        os.close(held)
    return False


def _attempt(file: Path) -> int | None:
    """The lock as an open file; None if another process has it.

    Raises:
        OSError: there can't be one.
    """
    opened = unlinked(str(file), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_there = os.path.samestat(os.fstat(opened), file.stat())  # who had it may have removed it
    except (BlockingIOError, FileNotFoundError):
        is_there = False
    except OSError as error:
        is_there = error.errno in NO_LOCKS
        if not is_there:
            os.close(opened)
            raise
    if is_there:
        return opened
    os.close(opened)
    return None
