"""All that the runtime uses of Python which it doesn't document: how a process ends, and a queue.

Imports nothing heavy. Checked with Python 3.11; tests/runtime/test_upstream.py says what another
version has changed.
"""

import atexit
import threading
from collections.abc import Callable
from multiprocessing.queues import Queue


def finish() -> None:
    """Do what Python does before it tears itself down: wait for threads, then call `atexit`'s.

    `threading._shutdown` also ends the threads of `concurrent.futures`, which hooks of its own
    notify and for which nobody could wait otherwise; `atexit._run_exitfuncs` calls each function
    once, so it does no harm if Python ends as usual after all.
    """
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()


def end_if_unsent(end: Callable[[Exception], None]) -> None:
    """Have this process call `end`, from now on, if what it puts into a queue can't be sent.

    `Queue._on_queue_feeder_error` would print a traceback, and who reads would wait for it forever.
    """
    Queue._on_queue_feeder_error = staticmethod(  # pyright: ignore[reportAttributeAccessIssue]
        lambda error, item: end(error)
    )
