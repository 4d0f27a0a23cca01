"""What the runtime uses of the insides of Python is there, and does its work."""

import atexit
import inspect
import platform
import subprocess
import sys
import threading
from multiprocessing.queues import Queue

END = """
import atexit, os, threading, time
from concurrent.futures import ThreadPoolExecutor
from everytoken.runtime.python_internals import finish
atexit.register(print, "atexit")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
pool = ThreadPoolExecutor()
pool.submit(print, "pool").result()  # its thread goes on waiting for work
finish()
os.write(1, b"end")
"""


def test_a_queue_tells_of_what_it_cannot_send() -> None:
    found = f"Python {platform.python_version()} has changed Queue._on_queue_feeder_error: mend "
    hook = inspect.getattr_static(Queue, "_on_queue_feeder_error", None)
    assert isinstance(hook, staticmethod), f"{found}everytoken/runtime/python_internals.py"
    assert [*inspect.signature(hook).parameters] == ["e", "obj"], found


def test_python_can_be_told_to_finish() -> None:
    found = f"Python {platform.python_version()} has changed {{}}: mend "
    found += "everytoken/runtime/python_internals.py"
    assert callable(getattr(threading, "_shutdown", None)), found.format("threading._shutdown")
    assert callable(getattr(atexit, "_run_exitfuncs", None)), found.format("atexit._run_exitfuncs")
    done = subprocess.run(
        [sys.executable, "-uc", END], capture_output=True, text=True, timeout=60, check=False
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == ["pool", "thread"], found.format("threading._shutdown") + done.stderr
    assert lines[2:] == ["atexit", "end"], found.format("atexit._run_exitfuncs") + done.stderr
