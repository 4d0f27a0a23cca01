"""Requests to stop a process."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from everytoken.runtime.signals import (
    EXIT_CODES,
    UNSENT,
    Stopped,
    StopRequests,
    begin_loader,
    chosen,
    stop_requests,
)

ALL = {"SIGUSR1": 138, "SIGUSR2": 138, "SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


@pytest.fixture
def asked() -> Iterator[StopRequests]:
    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests may run under nohup
    requests = StopRequests()
    with requests.listening():
        yield requests
    signal.signal(signal.SIGHUP, before[signal.SIGHUP])
    assert {number: signal.getsignal(number) for number in EXIT_CODES} == before


@pytest.mark.parametrize(("name", "code"), ALL.items())
def test_a_signal_ends_a_process_at_once_with_its_code(asked: StopRequests, name: str, code: int):
    with pytest.raises(Stopped) as left:
        signal.raise_signal(getattr(signal, name))
    assert left.value.code == code
    assert not left.value.agreed
    assert left.value.reason == (name if name != "SIGINT" else "Ctrl-C")


def test_asking_again_does_not_disturb_who_leaves(asked: StopRequests):
    with pytest.raises(Stopped):
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("name", ALL)
def test_while_held_a_signal_is_only_noted(asked: StopRequests, name: str):
    asked.hold()
    assert not any(asked.votes())
    signal.raise_signal(number := getattr(signal, name))
    assert chosen(asked.votes()) == number
    with pytest.raises(Stopped) as left:
        asked.release()
    assert left.value.code == ALL[name]


def test_nothing_asked_nothing_happens(asked: StopRequests):
    asked.hold()
    asked.release()


def test_only_a_second_ctrl_c_is_impatience(asked: StopRequests):
    """A process and its group may get the same signal, one each."""
    asked.hold()
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        signal.raise_signal(number)
    with pytest.raises(Stopped) as left:
        signal.raise_signal(signal.SIGINT)
    assert left.value.code == 130


def test_a_cluster_that_wants_its_machines_tells_why_whatever_else_came(asked: StopRequests):
    """Preemption may send SIGTERM too."""
    asked.hold()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.raise_signal(number)
    with pytest.raises(Stopped, match="138"):
        asked.release()


def test_the_time_limit_counts_from_the_start_of_the_process(asked: StopRequests):
    asked.hold()
    asked.limit_hours(1e-9)  # long over
    time.sleep(0.1)
    with pytest.raises(Stopped) as left:
        asked.release()
    assert left.value.code == 124
    assert left.value.reason == "trainer.time_limit is over"


def test_no_time_limit_is_left_behind():
    requests = StopRequests()
    with requests.listening():
        requests.limit_hours(100)
        assert 3600 < signal.getitimer(signal.ITIMER_REAL)[0] < 360_000
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_there_is_one_object_whoever_is_pickled_with_it():
    assert pickle.loads(pickle.dumps(stop_requests)) is stop_requests


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequests().listening():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_who_heard_the_signal_before_can_be_asked_to_go_on():
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    requests = StopRequests()
    try:
        with requests.listening():
            assert requests.former_handler(143) is None
            former = requests.former_handler(138)
            assert former is not None
            former()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert heard == [signal.SIGUSR2]


LOSES_THE_EXCEPTION = """
    try:
        signal.raise_signal(signal.SIGTERM)
    except SystemExit:
        time.sleep(60)
"""
WAITS_IN_C = """
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""


@pytest.mark.parametrize("stuck", [LOSES_THE_EXCEPTION, WAITS_IN_C], ids=["lost", "in C"])
def test_a_process_that_should_leave_and_is_stuck_ends_all_the_same(stuck: str):
    code = f"""
import ctypes, os, signal, threading, time
from everytoken.runtime import signals
signals.HEAR_SECONDS = signals.LEAVE_SECONDS = 0.5
with signals.stop_requests.listening():
{stuck}"""
    started = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code]).returncode == 143
    assert time.monotonic() - started < 30


def wait_as_loader(ready: object) -> None:
    begin_loader(0)
    ready.set()  # type: ignore[attr-defined]
    time.sleep(60)


def wait_as_child(ready: object) -> None:
    ready.set()  # type: ignore[attr-defined]
    time.sleep(60)


def test_a_loader_hears_only_the_process_that_it_loads_for(asked: StopRequests):
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    loader = fork.Process(target=wait_as_loader, args=(ready,))
    loader.start()
    assert ready.wait(20)
    assert loader.pid is not None
    for name in ALL:
        if name != "SIGTERM":
            os.kill(loader.pid, getattr(signal, name))
    subprocess.run(["kill", "-TERM", str(loader.pid)], check=True)
    loader.join(0.5)
    assert loader.is_alive()
    loader.terminate()
    loader.join(20)
    assert loader.exitcode == 0


class Unsent:
    """What can't be sent to another process."""

    def __init__(self, why: str) -> None:
        self.why = why

    def __reduce__(self) -> str:
        raise RuntimeError(self.why)


def send_as_loader(queue: Any, why: str) -> None:
    begin_loader(0)
    queue.put(Unsent(why))
    time.sleep(60)


@pytest.mark.parametrize(
    ("why", "code"),
    [
        ("unable to allocate shared memory(shm) for file </torch_1_2>: No space left", UNSENT),
        ("unable to resize file </torch_1_2> to the right size: No space left", UNSENT),
        ("it is a generator", 1),
    ],
)
def test_a_loader_that_cannot_send_its_batches_ends_and_is_not_waited_for(
    why: str, code: int, capfd: pytest.CaptureFixture[str]
):
    fork = multiprocessing.get_context("fork")
    loader = fork.Process(target=send_as_loader, args=(fork.Queue(), why))
    loader.start()
    loader.join(20)
    assert loader.exitcode == code
    told = capfd.readouterr().err
    assert "Traceback" not in told
    assert (why in told) == (code == 1)


def test_another_child_does_what_it_would_do_anyway(asked: StopRequests):
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    child = fork.Process(target=wait_as_child, args=(ready,))
    child.start()
    assert ready.wait(20)
    child.terminate()
    child.join(20)
    assert child.exitcode == -signal.SIGTERM
