"""What becomes of memory that is freed: seen from outside, by the pages that a process touches."""

import os
import subprocess
import sys

import pytest

from everytoken.runtime.memory import CHOSEN_BY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")

PAGES_TOUCHED_ANEW = """
import resource, sys
from everytoken.runtime import memory
if sys.argv[1] == "keep":
    memory.keep_freed()
size = 40_000_000
def touched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        b"x" * size
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
touched()
memory.give_back()
print(touched())
"""


def touched_anew(how: str, **chosen: str) -> int:
    """Pages of 10 blocks of 40 MB, each freed before the next is made."""
    own = {name: v for name, v in os.environ.items() if not name.startswith(CHOSEN_BY)}
    command = [sys.executable, "-c", PAGES_TOUCHED_ANEW, how]
    done = subprocess.run(command, env=own | chosen, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_what_a_step_frees_is_there_for_the_next_one() -> None:
    once = 40_000_000 // os.sysconf("SC_PAGE_SIZE")
    assert touched_anew("keep") < 1.5 * once  # given back before, so touched once
    assert touched_anew("leave") > 8 * once


def test_how_a_user_has_memory_allocated_stays() -> None:
    once = 40_000_000 // os.sysconf("SC_PAGE_SIZE")
    assert touched_anew("keep", MALLOC_MMAP_THRESHOLD_="131072") > 8 * once
