"""One process trains in a run directory: a file lock, which goes with the process that holds it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from everytoken.errors import UserError

SECONDS = 10
"""How long the processes of a run that was killed may take to be gone."""


@contextmanager
def lock(file: Path, place: str) -> Iterator[None]:
    """Hold a lock; on file systems that have none, nothing is held.

    Args:
        file: of the lock.
        place: what it guards, for the message.

    Raises:
        UserError: another process has it.
    """
    with ExitStack() as held:
        try:
            held.enter_context(FileLock(file).acquire(timeout=SECONDS))
        except Timeout as error:
            raise UserError(
                f"another process is training in {place}: wait until it has ended, or stop it"
            ) from error
        except NotImplementedError:
            pass  # no locks on this file system
        yield


def is_locked(file: Path) -> bool:
    """True if a process holds the lock."""
    try:
        with FileLock(file, blocking=False):
            return False
    except Timeout:
        return True
    except NotImplementedError:
        return False
