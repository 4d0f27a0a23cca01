"""What runs in one rank of a job, whoever started it: `launch`, torchrun or srun.

Imports nothing heavy.
"""

import errno
import gc
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from everytoken.errors import (
    BAD_INPUT,
    FAILURE,
    TERMINATED,
    BrokenRunError,
    RunError,
    UserError,
    one_line,
)
from everytoken.runtime.python_internals import finish
from everytoken.runtime.redact import print_error
from everytoken.runtime.rendezvous import hush, missed
from everytoken.runtime.signals import EXIT_CODES, UNSENT, Stopped, stop_requests
from everytoken.runtime.world import global_rank, is_launched, may_restart

NO_SHARED_MEMORY = (
    "a loader process finds no room in shared memory (/dev/shm): give it more (docker run "
    "--shm-size=1g), or set data.num_workers=0, which needs none"
)

OUTSIDE = {
    f"bus error|exit code {UNSENT}": NO_SHARED_MEMORY,
    "dataloader timed out": "its loader processes gave nothing for trainer.hang_timeout seconds: "
    "are they stopped, or is /dev/shm full? lower data.num_workers",
    r"dataloader worker \(pid": "a loader process was killed, as happens when memory runs out: "
    "lower data.num_workers or data.microbatch_tokens",
    "unable to (write|allocate|open|resize).*/torch_": NO_SHARED_MEMORY,
}
"""What libraries say when a loader process is gone, and what it means."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What systems say when a file can't be written, whatever is in it."""


def call(job: str, arguments: dict[str, Any]) -> None:
    """Run a job, "module:function", in this process.

    Raises:
        RunError: another process is gone, or something broke that nobody expected.
        BrokenRunError: there is no room for a file.
    """
    try:
        _call(job, arguments)
    except (UserError, RunError, Stopped, BrokenPipeError):
        raise
    except Exception as error:
        from everytoken.runtime.unexpected import kept  # only now: it imports rich

        folder = arguments.get("run_dir")
        raise RunError(kept(error, folder and Path(folder))) from error


def _call(job: str, arguments: dict[str, Any]) -> None:
    name, function = job.split(":")
    module = sys.modules.get(name) or _imported(name)
    try:
        getattr(module, function)(**arguments)
    except RuntimeError as error:
        for said, meaning in OUTSIDE.items():
            if re.search(said, f"{error} {error.__cause__}", re.IGNORECASE | re.DOTALL):
                _end_loaders()
                raise RunError(f"rank {global_rank()} stops, for {meaning}") from error
        if found := missed(error):
            _end_loaders()
            raise found from error
        raise
    except MemoryError as error:
        raise UserError(
            f"more than memory holds ({one_line(error)}): set data.* or model.* smaller"
        ) from error
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        file = f"{error.filename}: " if error.filename else ""
        raise BrokenRunError(
            f"a file can't be written ({file}{error.strerror}): make room; what was saved is kept, "
            "and a run goes on with resume=DIR"
        ) from error


def _end_loaders() -> None:
    """Python would wait at its end for those that are stopped, forever."""
    for process in multiprocessing.active_children():
        process.kill()


def _imported(name: str) -> ModuleType:
    """Import a module with all of torch and Lightning behind it.

    Nothing of that is ever garbage, and Python's collector would walk over it again and again: a
    third of the time that a process takes to start and end.
    """
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def to_the_end() -> Iterator[None]:
    """Around all that a process does: it ends here if it is a rank, without Python's tear-down.

    gloo's threads let go of tensors a moment after their collective is over. For that they need
    Python's lock, and abort the process if it is gone by then. What still waits for a lost rank may
    hang or abort likewise. Threads are waited for and `atexit` is obeyed, as at any other end.
    """
    if not is_launched():
        yield
        return
    code: str | int | None = None
    try:
        yield
    except SystemExit as left:
        code = left.code
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = FAILURE
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = FAILURE
    if may_restart():
        code = _not_to_be_restarted(code or 0)
    finish()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code or 0)


def _not_to_be_restarted(code: int) -> int:
    """The exit code for a torchrun that starts ranks again unless it is 0.

    Who stops as it was asked to is done; a mistake ends torchrun, which would only repeat it.
    """
    if code in EXIT_CODES.values():
        if global_rank() == 0 and code != TERMINATED:  # which torchrun sends whenever it regroups
            print(f"exit code 0 and not {code}: torchrun would start the ranks again")
        return 0
    if code == BAD_INPUT:
        os.kill(os.getppid(), signal.SIGTERM)
    return code


def die_with_parent(parent: int) -> None:
    """End this rank soon after the process that started it is gone, however it went.

    Args:
        parent: that process: it may be gone already, so who is the parent now says nothing.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def _main(job: str, arguments: str, parent: str) -> None:
    die_with_parent(int(parent))
    hush()
    try:
        with stop_requests.listening():
            call(job, json.loads(arguments))
    except UserError as error:
        if global_rank() == 0:
            print_error(str(error))
        else:
            time.sleep(3)  # if rank 0 finds the same mistake, it tells, and this rank is stopped
            own = f"rank {global_rank()}"
            print_error(str(error) if str(error).startswith(own) else f"{own}: {error}")
        sys.exit(error.exit_code)
    except RunError as error:
        print_error(str(error))
        sys.exit(FAILURE)
    except Stopped as left:
        if not left.agreed:
            print(f"rank {global_rank()} left at once ({left.reason})", file=sys.stderr)
        raise


if __name__ == "__main__":
    with to_the_end():
        _main(*sys.argv[1:])
