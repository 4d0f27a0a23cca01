"""A job that goes back into SLURM's queue."""

import os
import signal
from pathlib import Path

import pytest

from everytoken.errors import PREEMPTED, TERMINATED
from everytoken.runtime.signals import Stopped, stop_requests
from everytoken.runtime.slurm import requeue_if_preempted

ALONE = Stopped(signal.SIGUSR1, agreed=False)
TOGETHER = Stopped(signal.SIGUSR1, agreed=True)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What scontrol was called with, a line each; it fails for job 13."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "calls"
    script = tmp_path / "scontrol"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {file}\n'
        'if [ "$3" = 77 ]; then echo "PreemptTime=None"; fi\n'
        'if [ "$3" = 99 ]; then echo " PreemptTime=2026-01-01T00:00:00 Suspend"; fi\n'
        'if [ "$2" = 13 ]; then echo "Requested operation is presently disabled" >&2; exit 1; fi\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    file.touch()
    return file


def test_a_preempted_job_is_queued_again(
    calls: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    requeue_if_preempted(TOGETHER, rank=0)
    assert calls.read_text() == "requeue 77\n"
    assert "SLURM job 77 is queued again" in capsys.readouterr().err


def test_a_job_of_an_array_is_named_by_its_task(calls: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in [("JOB_ID", "79"), ("ARRAY_JOB_ID", "77"), ("ARRAY_TASK_ID", "2")]:
        monkeypatch.setenv(f"SLURM_{name}", value)
    requeue_if_preempted(SystemExit(PREEMPTED), rank=0)  # as a launcher leaves after its ranks
    assert calls.read_text() == "requeue 77_2\n"


def test_ranks_that_stop_together_ask_once_and_one_that_leaves_alone_asks(
    calls: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    requeue_if_preempted(TOGETHER, rank=1)
    assert calls.read_text() == ""
    requeue_if_preempted(ALONE, rank=1)
    assert calls.read_text() == "requeue 77\n"


def test_a_refusal_is_told(
    calls: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    requeue_if_preempted(ALONE, rank=0)
    told = "SLURM job 13 could not be put back into the queue: Requested operation is presently"
    assert told in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    requeue_if_preempted(ALONE, rank=0)
    assert "could not be put back" in capsys.readouterr().err


def test_nothing_else_is_queued_again(calls: Path, monkeypatch: pytest.MonkeyPatch):
    requeue_if_preempted(ALONE, rank=0)  # not in SLURM
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    for left in (SystemExit(TERMINATED), SystemExit(1), ValueError()):
        requeue_if_preempted(left, rank=0)
    assert "requeue" not in calls.read_text()


def test_sigterm_is_scancels_unless_slurm_takes_the_machines_for_another_job(
    calls: Path, monkeypatch: pytest.MonkeyPatch
):
    for job in ("77", "99"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        requeue_if_preempted(SystemExit(TERMINATED), rank=0)
    assert calls.read_text() == "show job 77\nshow job 99\nrequeue 99\n"


def test_what_submitit_started_is_left_to_submitit(calls: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        with stop_requests.listening():
            requeue_if_preempted(ALONE, rank=0)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert heard == [signal.SIGUSR2]
    assert calls.read_text() == ""
