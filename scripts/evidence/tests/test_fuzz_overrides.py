"""Random command lines: a sample of those that the command tries."""

import pytest

from fuzz_overrides import BASES, command_lines, fuzz


def test_the_same_seed_draws_the_same_lines():
    drawn = list(command_lines(1, 200))
    assert drawn == list(command_lines(1, 200))
    assert drawn != list(command_lines(2, 200))
    more = [word for words in drawn for word in words if not any(word in base for base in BASES)]
    for part in ("${nope}", "${oc.env:NOPE}", "'%s'", "null", "~", "scheduler", "callbacks."):
        assert any(part in word for word in more)


@pytest.mark.slow
def test_no_line_ends_in_a_traceback_or_hangs():
    shown: list[str] = []
    found = fuzz(seed=7, count=30, seconds=100, show=shown.append)
    assert not shown
    assert found["refused"] > 10
    assert found["ran"] > 0
