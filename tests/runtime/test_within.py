"""A call is waited for, but not forever."""

import threading

import pytest

from everytoken.runtime.within import within


def test_what_a_call_gives_or_raises_is_the_callers():
    assert within(100, lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        within(100, lambda: 1 / 0)


def test_who_gives_nothing_is_left_to_itself():
    over = threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer for 0\.05 seconds"):
        within(0.05, over.wait)
    over.set()
