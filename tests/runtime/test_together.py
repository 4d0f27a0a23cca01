"""Ranks wait for one that works as long as it works, and no longer for one that doesn't."""

import os
import socket
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from everytoken.runtime.files import Steady
from everytoken.runtime.launch import Ranks, launch
from everytoken.runtime.rendezvous import Meeting, beat_key
from everytoken.runtime.together import Pulse, together
from support import slow_jobs


@pytest.fixture(autouse=True)
def ranks_find_the_jobs(monkeypatch: pytest.MonkeyPatch):
    here = str(Path(slow_jobs.__file__).parents[1])
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [here, before])))


def start(does: str) -> None:
    launch("support.slow_jobs:one_rank", {"does": does}, processes=2)


@pytest.mark.parametrize("does", ["works", "waits_for_somebody"])
def test_who_goes_on_is_waited_for(does: str, capfd: pytest.CaptureFixture[str]):
    start(does)
    assert capfd.readouterr().out.count("both are there: 2") == 2


def test_who_saves_or_evaluates_or_comes_late_is_waited_for(capfd: pytest.CaptureFixture[str]):
    launch("support.slow_jobs:one_after_another", {}, processes=2)
    assert capfd.readouterr().out.count("both are there: 2") == 3 * 2


@pytest.mark.parametrize("does", ["hangs", "is_stopped"])
def test_who_hangs_is_named(
    does: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Ranks, "_end_within", lambda ranks, _: setattr(ranks, "deadline", 0))
    with pytest.raises(SystemExit) as left:
        start(does)
    assert left.value.code == 1
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    assert "error: rank 0 stops, for rank 1 on " in err
    assert "didn't go on preparing data for 2 seconds (trainer.hang_timeout)" in err
    assert "both are there" not in out


def test_rank_0_is_named_though_only_it_could_say_who_hangs(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """The store in which ranks say how far they are is its own, and answers nobody."""
    monkeypatch.setattr(Ranks, "_end_within", lambda ranks, _: setattr(ranks, "deadline", 0))
    with pytest.raises(SystemExit) as left:
        launch("support.slow_jobs:one_rank", {"does": "is_stopped", "rank": 0}, processes=2)
    assert left.value.code == 1
    err = capfd.readouterr().err
    assert "Traceback" not in err
    waited = "has answered nothing for 2 seconds (trainer.hang_timeout)"
    assert f"error: rank 1 stops, for rank 0 on {socket.gethostname()} {waited}" in err


def test_who_fails_alone_ends_all_with_its_mistake(capfd: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        start("finds_a_mistake")
    assert left.value.code == 2
    assert "Traceback" not in (err := capfd.readouterr().err)
    assert err.count("error: rank 1: mend this") == 1


def test_what_says_how_far_a_rank_is_asks_a_store_of_its_own_and_ends_before_it():
    """torch's store is for one thread: two that share one corrupt its memory."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pulse = Pulse(Meeting(store, rank=0, size=1, wait_seconds=0.2, host="here"))
    pulse.begin()
    assert pulse.store is not store
    store.wait([beat_key(0)], timedelta(seconds=20))
    assert store.get(beat_key(0)).startswith(b"1 at work ")
    pulse.end()
    assert not pulse.thread.is_alive()


def test_a_process_alone_waits_for_nobody():
    with together("preparing data"):
        pass


def test_a_steady_file_has_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("everytoken.runtime.files.SYNCED_BYTES", 1000)
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", lambda number: synced.append(os.fstat(number).st_size))
    content = [b"a" * 300, memoryview(bytes(range(256)) * 20), b""]
    with (tmp_path / "file").open("wb") as file:
        steady = Steady(file)
        assert [steady.write(part) for part in content] == [300, 5120, 0]
    assert (tmp_path / "file").read_bytes() == b"".join(map(bytes, content))
    assert synced == [1300, 2300, 3300, 4300, 5300]
