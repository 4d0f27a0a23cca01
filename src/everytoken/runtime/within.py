"""A call that may never return, and how long it is waited for.

What asks another process waits in C, where neither time-outs nor signals reach it, if that process
is stopped or cut off while it should answer.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

Given = TypeVar("Given")


def within(seconds: float, call: Callable[[], Given]) -> Given:
    """What a call gives, which is made in a thread of its own; that is left to itself if need be.

    Raises:
        TimeoutError: it takes longer. Else what the call raises.
    """
    given: list[Given] = []
    raised: list[BaseException] = []

    def make() -> None:
        try:
            given.append(call())
        except BaseException as error:  # it is the caller's
            raised.append(error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not given:
        raise TimeoutError(f"no answer for {seconds:g} seconds")
    return given[0]
