"""Memory that was freed: kept for the next step, or given back to the system."""

import ctypes
import os
import sys
from collections.abc import Callable

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's `mallopt`."""
CHOSEN_BY = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Beginnings of variables by which a user chooses how memory is allocated."""


def keep_freed() -> None:
    """Have the C library keep what a step on a CPU frees, for the next step takes as much.

    glibc gives large blocks back at once, and each of their pages is cleared again as it is touched
    anew: 10,000 to 30,000 pages a step, 3% to 14% of its time. Nothing where a user has chosen, or
    the library doesn't know how; older ones keep blocks of up to 32 MiB only.
    """
    if any(name.startswith(CHOSEN_BY) for name in os.environ):
        return
    if option := _of_libc("mallopt"):
        if not option(M_MMAP_THRESHOLD, 2**30):
            option(M_MMAP_THRESHOLD, 2**25)
        option(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back() -> None:
    """Have the C library return what it keeps for later; nothing where it doesn't know how.

    A checkpoint has many blocks that it would keep.
    """
    if trim := _of_libc("malloc_trim"):
        trim(0)


def _of_libc(name: str) -> Callable[..., int] | None:
    """A function of glibc; None of another library."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
