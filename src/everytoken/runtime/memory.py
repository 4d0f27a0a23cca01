"""Memory that was freed, given back to the system."""

import ctypes
import sys


def give_back() -> None:
    """Have the C library return what it keeps for later; nothing where it doesn't know how.

    glibc keeps blocks of less than 32 MB, of which a checkpoint has many.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
