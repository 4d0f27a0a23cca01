"""Requests to stop a run: all of them are signals, the time limit too, from first to last line.

Where nothing is unsaved, in start-up and evaluation, a signal ends the process at once. In training
it is noted, and `StopOnRequest` ends the run after the step. Imports nothing heavy.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from everytoken.errors import (
    FAILURE,
    HUNG_UP,
    INTERRUPTED,
    PREEMPTED,
    TERMINATED,
    TIME_LIMIT,
    one_line,
)
from everytoken.runtime.python_internals import end_if_unsent

_CODES = {
    "SIGUSR1": PREEMPTED,
    "SIGUSR2": PREEMPTED,
    "SIGINT": INTERRUPTED,
    "SIGTERM": TERMINATED,
    "SIGHUP": HUNG_UP,
    "SIGALRM": TIME_LIMIT,
}
EXIT_CODES = {getattr(signal, n): code for n, code in _CODES.items() if hasattr(signal, n)}
"""The signals, and what a run ends with. If several came, the first in this order tells why."""

UNSENT = 74
"""Exit code of a loader process that finds no shared memory: EX_IOERR of sysexits.h."""

HEAR_SECONDS = 5
"""How long the main thread may take to hear that it is to leave at once."""

LEAVE_SECONDS = 20
"""How long it may then take to tidy up."""

_STARTED = time.monotonic()


class Stopped(SystemExit):
    """The end of a run that was asked to stop, with the exit code that says why.

    Args:
        number: of the signal.
        agreed: all ranks stop together; otherwise this one leaves alone.
    """

    def __init__(self, number: int, *, agreed: bool) -> None:
        super().__init__(EXIT_CODES[number])
        self.agreed = agreed
        self.reason = {
            TIME_LIMIT: "trainer.time_limit is over",
            INTERRUPTED: "Ctrl-C",
        }.get(EXIT_CODES[number], signal.Signals(number).name)


class StopRequests:
    """What this process has been asked. There is one object, as signals are the process's."""

    def __init__(self) -> None:
        self.noted: list[int] = []
        self.process = 0
        self.is_held = False
        self.handlers: dict[int, Any] = {}
        self.wake = -1  # the writing end of a pipe to a thread that ends what can't leave

    def __reduce__(self) -> str:
        """Pickled by name: submitit pickles the functions that it starts, with what they use."""
        return "stop_requests"

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear the signals; at the end whoever heard them before hears them again.

        Raises:
            Stopped: at any time, unless requests are held.
        """
        if self.handlers or threading.current_thread() is not threading.main_thread():
            yield
            return
        self.process = os.getpid()
        heard, self.wake = os.pipe()
        os.set_blocking(self.wake, False)
        woken_before = signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(heard, self.wake), daemon=True).start()
        for number in EXIT_CODES:
            if number == getattr(signal, "SIGHUP", 0) and _is_ignored(number):
                continue  # nohup
            self.handlers[number] = signal.signal(number, self._receive)
        try:
            yield
        finally:
            self.limit_hours(None)
            for number, handler in self.handlers.items():
                signal.signal(number, handler)
            self.handlers = {}
            signal.set_wakeup_fd(woken_before)
            os.close(self.wake)
            self.wake, self.noted, self.is_held = -1, [], False

    def limit_hours(self, hours: float | None) -> None:
        """Ask to stop so many hours after the start of this process; None for no limit."""
        if hasattr(signal, "setitimer"):
            left = 0 if hours is None else 3600 * hours - (time.monotonic() - _STARTED)
            signal.setitimer(signal.ITIMER_REAL, left if hours is None else max(left, 1e-3))

    def hold(self) -> None:
        """From now on only note what is asked, since leaving would lose something."""
        self.is_held = True

    def release(self) -> None:
        """From now on leave at once.

        Raises:
            Stopped: something was noted meanwhile.
        """
        self.is_held = False
        if self.noted:
            self.leave()

    def votes(self) -> list[int]:
        """1 for each of `EXIT_CODES`' signals that came, 0 for the others."""
        return [int(number in self.noted) for number in EXIT_CODES]

    def leave(self) -> None:
        """End this process, whatever the others do.

        Raises:
            Stopped: always.
        """
        number = chosen(self.votes())
        for each in self.handlers:  # asked twice, as by a process and by its group, is asked once
            signal.signal(each, signal.SIG_DFL if each == signal.SIGINT else signal.SIG_IGN)
        self.is_held = False
        os.write(self.wake, bytes([number]))
        raise Stopped(number, agreed=False)

    def former_handler(self, code: int) -> Callable[[], object] | None:
        """Who heard a signal with this exit code before, as submitit does, to be called."""
        for number, handler in self.handlers.items():
            known = handler in (signal.default_int_handler, self._receive)
            if EXIT_CODES[number] == code and callable(handler) and not known:
                return lambda number=number, handler=handler: handler(number, None)
        return None

    def _watch(self, heard: int, wake: int) -> None:
        """End this process if it is to leave and doesn't.

        The main thread may wait in C, for another rank say, where it doesn't hear signals; or the
        exception got lost, as in a destructor.
        """
        while received := os.read(heard, 1):
            if received[0] in EXIT_CODES and not self.is_held:
                time.sleep(HEAR_SECONDS)
                if self.noted:
                    time.sleep(LEAVE_SECONDS)
                if self.wake == wake and not self.is_held:
                    os._exit(EXIT_CODES[received[0]])
        os.close(heard)

    def _receive(self, number: int, frame: object) -> None:
        if os.getpid() != self.process:  # a process that was forked from this one
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        again = number == signal.SIGINT and number in self.noted
        self.noted.append(number)
        if again or not self.is_held:
            self.leave()
        if number == signal.SIGINT:
            print("\nstopping after this step (Ctrl-C again to leave at once)", file=sys.stderr)


stop_requests = StopRequests()


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt and asks for nothing else; other signals do as ever."""
    woken = signal.set_wakeup_fd(-1)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)


# What a process hears that was forked from this one is no news for this one's thread.
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def chosen(votes: list[int]) -> int:
    """The signal that tells why, given how often each was heard; 0 for none."""
    return next((number for number, count in zip(EXIT_CODES, votes, strict=True) if count), 0)


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN


def _end_loader(error: Exception) -> None:
    """End a loader process whose batches can't be sent."""
    if "shared memory" in str(error) or "/torch_" in str(error):
        os._exit(UNSENT)
    print(f"a loader process can't send what it has loaded: {one_line(error)}", file=sys.stderr)
    os._exit(FAILURE)


def begin_loader(worker: int) -> None:
    """For `worker_init_fn`: a step that is finished before stopping still needs its loader.

    One that can't hand over what it has loaded ends: who waits for it would wait forever.
    Clusters and terminals signal a whole group of processes. Of all these signals a loader obeys
    only the SIGTERM of the process that it loads for.
    """
    end_if_unsent(_end_loader)
    for number in EXIT_CODES.keys() - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def obey() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=obey, daemon=True).start()
