"""Random command lines: a sample of those that the command tries."""

import re

import pytest

from forked import ROOT
from fuzz_overrides import BASES, command_lines
from support import prefork


def test_the_same_seed_draws_the_same_lines():
    drawn = list(command_lines(1, 200))
    assert drawn == list(command_lines(1, 200))
    assert drawn != list(command_lines(2, 200))
    more = [word for words in drawn for word in words if not any(word in base for base in BASES)]
    for part in ("${nope}", "${oc.env:NOPE}", "'%s'", "null", "~", "scheduler", "callbacks."):
        assert any(part in word for word in more)


@pytest.mark.slow
def test_no_line_ends_in_a_traceback_or_hangs():
    """In a process of its own: the tests have threads, and a fork of one that has may hang."""
    words = ("--seed", "7", "--count", "30", "--seconds", "100")
    done = prefork.run(ROOT, "-W", "ignore", "scripts/evidence/fuzz_overrides.py", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {how: int(number) for number, how in re.findall(r"(\d+) (ran|refused)", done.stdout)}
    assert sum(found.values()) == 30
    assert found["refused"] > 10
    assert found["ran"] > 0
