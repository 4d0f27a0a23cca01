"""Errors in one line."""

from everytoken.errors import one_line


def test_whatever_an_error_says_is_one_line() -> None:
    assert one_line(ValueError("no\n\n  such\tthing\n")) == "no such thing"
    assert one_line(ValueError("no such thing"), 7) == "no such"
    assert one_line(TimeoutError()) == "TimeoutError"
