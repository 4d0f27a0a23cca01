"""Ranks are started with the right environment, and none outlives a failure."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from everytoken.errors import RunError, UserError
from everytoken.run.lock import is_locked
from everytoken.runtime.launch import Ranks, free_port, launch, process_count
from everytoken.runtime.world import is_launched
from support import launch_jobs
from support.helpers import wait_until


@pytest.fixture(autouse=True)
def ranks_find_the_jobs(monkeypatch: pytest.MonkeyPatch):
    here = str(Path(launch_jobs.__file__).parents[1])
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [here, before])))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)


def test_one_process_is_this_process(tmp_path: Path):
    launch("support.launch_jobs:report", {"folder": str(tmp_path)}, processes=1)
    assert json.loads((tmp_path / "rank0.json").read_text())["pid"] == os.getpid()


def test_several_ranks_know_their_places_and_share_the_cores(tmp_path: Path):
    launch("support.launch_jobs:report", {"folder": str(tmp_path)}, processes=3)
    places = [json.loads((tmp_path / f"rank{r}.json").read_text()) for r in range(3)]
    assert [p["RANK"] for p in places] == [p["LOCAL_RANK"] for p in places] == ["0", "1", "2"]
    assert {p["WORLD_SIZE"] for p in places} == {"3"}
    assert {p["MASTER_ADDR"] for p in places} == {"127.0.0.1"}
    assert len({p["MASTER_PORT"] for p in places}) == 1
    assert len({p["pid"] for p in places} | {os.getpid()}) == 4
    assert {p["OMP_NUM_THREADS"] for p in places} == {str(max(1, (os.cpu_count() or 1) // 3))}


@pytest.mark.parametrize(("job", "code"), [("last_rank_fails", 1), ("last_rank_is_killed", 137)])
def test_a_rank_that_dies_ends_the_job_soon(job: str, code: int, capfd: pytest.CaptureFixture[str]):
    started = time.monotonic()
    with pytest.raises(SystemExit) as left:
        launch(f"support.launch_jobs:{job}", {}, processes=2, if_killed="buy more")
    assert left.value.code == code
    assert time.monotonic() - started < 30
    err = capfd.readouterr().err
    assert ("rank 1 broke" in err) == (job == "last_rank_fails")
    told = "error: rank 1 was ended by SIGKILL: the machine may have run out of memory, buy more"
    assert (told in err) == (job == "last_rank_is_killed")


def test_a_mistake_is_told_once(capfd: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        launch("support.launch_jobs:user_error", {}, processes=2)
    assert left.value.code == 2
    assert "Traceback" not in (err := capfd.readouterr().err)
    assert err.count("mend this") == 1


def test_a_mistake_that_only_another_rank_finds_is_told(capfd: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        launch("support.launch_jobs:last_rank_has_a_user_error", {}, processes=2)
    assert left.value.code == 2
    assert "Traceback" not in (err := capfd.readouterr().err)
    assert err.count("error: rank 1: mend this") == 1


def test_the_exit_code_is_that_of_the_mistake_and_not_of_ranks_that_lost_a_peer():
    ranks = Ranks("buy more")
    for code in (1, 2):
        ranks.processes.append(
            subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
        )
        ranks.processes[-1].wait()
    assert ranks._failure() == 2


def test_a_rank_that_lost_another_is_not_taken_for_the_cause(capfd: pytest.CaptureFixture[str]):
    """Which takes longer to end: here it is asked to stop, and has something to tidy up."""
    with pytest.raises(SystemExit) as left:
        launch("support.launch_jobs:last_rank_stops_slowly", {}, processes=2)
    assert left.value.code == 138
    assert "rank 1 left at once (SIGUSR1)" in capfd.readouterr().err


@pytest.mark.parametrize(("number", "code"), [("SIGUSR1", 138), ("SIGHUP", 129)])
def test_signals_are_handed_on_to_the_ranks(tmp_path: Path, number: str, code: int):
    parent, pids = start_two_waiting_ranks(tmp_path)
    parent.send_signal(getattr(signal, number))
    assert parent.wait(timeout=40) == code
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


@pytest.mark.parametrize("job", ["last_rank_hangs", "last_rank_is_lost"])
def test_whoever_waits_for_a_rank_in_vain_says_so_in_a_line(
    job: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Ranks, "_end_within", lambda ranks, _: setattr(ranks, "deadline", 0))
    with pytest.raises(SystemExit) as left:
        launch(f"support.launch_jobs:{job}", {}, processes=2)
    assert left.value.code == 1
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    assert "error: rank 0 stops, for it has " in err
    assert ("rank 0 has tidied up" in out) == (job == "last_rank_is_lost")
    assert ("rank 1 hung and was killed" in err) == (job == "last_rank_hangs")


def test_a_loader_that_gives_nothing_is_told_in_a_line():
    """And ended: Python would wait for it, forever."""
    with pytest.raises(RunError, match=r"gave nothing for trainer\.hang_timeout seconds"):
        launch("support.launch_jobs:loader_is_stopped", {}, processes=1)
    for process in multiprocessing.active_children():
        process.join(timeout=40)
    assert not multiprocessing.active_children()


def test_a_loader_that_was_killed_is_told_in_a_line():
    with pytest.raises(RunError, match=r"loader process was killed.*lower data\.num_workers"):
        launch("support.launch_jobs:loader_is_killed", {}, processes=1)


def test_ranks_end_without_tearing_down_what_others_may_still_use():
    launch("support.launch_jobs:leave_something_that_aborts", {}, processes=2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_no_rank_outlives_the_process_that_started_it(tmp_path: Path, number: int):
    parent, pids = start_two_waiting_ranks(tmp_path)
    parent.send_signal(number)
    parent.wait(timeout=40)
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_a_rank_whose_launcher_is_gone_before_it_looks_does_nothing(tmp_path: Path):
    """It would be nobody's, and train on."""
    job = ("support.launch_jobs:report", json.dumps({"folder": str(tmp_path)}))
    rank = [sys.executable, "-m", "everytoken.runtime.rank", *job]
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert subprocess.run([*rank, str(gone.pid)]).returncode == 1
    assert not list(tmp_path.iterdir())
    assert subprocess.run([*rank, str(os.getpid())]).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["rank0.json"]


def test_a_rank_that_outlives_its_launcher_keeps_the_lock(tmp_path: Path):
    """Stopped, say: it would go on beside the run that has taken its place."""
    file = tmp_path / ".lock"
    parent, pids = start_two_waiting_ranks(tmp_path)
    os.kill(pids[0], signal.SIGSTOP)
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_alive(pids[1]))
    assert is_locked(file)
    os.kill(pids[0], signal.SIGCONT)
    wait_until(lambda: not is_locked(file))
    wait_until(lambda: not is_alive(pids[0]))  # its files are closed a moment before


def start_two_waiting_ranks(folder: Path) -> tuple[subprocess.Popen, list[int]]:
    code = "from everytoken.runtime.launch import launch; import signal, sys; from pathlib import "
    code += (
        "Path; from everytoken.run.lock import lock; held = lock(Path(sys.argv[1], '.lock'), '')"
    )
    code += "; held.__enter__(); "
    code += "signal.signal(signal.SIGHUP, signal.SIG_DFL); "  # tests may run under nohup
    code += "launch('support.launch_jobs:write_pid_and_wait', {'folder': sys.argv[1]}, processes=2)"
    parent = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    files = [folder / f"rank{rank}.json" for rank in range(2)]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files))
    return parent, [json.loads(file.read_text())["pid"] for file in files]


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0]
    except FileNotFoundError:
        return False


def test_processes_come_from_the_trainer_config(monkeypatch: pytest.MonkeyPatch):
    def count(**settings: object) -> int:
        return process_count(
            OmegaConf.create({"accelerator": "cpu", "devices": 1, "num_nodes": 1} | settings)
        )

    assert count() == count(accelerator="auto", devices="auto") == 1
    assert count(devices=3) == 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert count(accelerator="cuda", devices="auto") == 4
    assert count(accelerator="cuda", devices=2) == 2
    with pytest.raises(UserError, match="needs 5 CUDA GPUs and there are 4"):
        count(accelerator="cuda", devices=5)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"there are none here: use trainer=auto"):
        count(accelerator="cuda", devices="auto")


def test_ranks_of_another_launcher_start_none_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    assert not is_launched()
    place = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**place, "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    assert is_launched()
    try:
        launch("support.launch_jobs:report", {"folder": str(tmp_path)}, processes=2)
    finally:
        torch.distributed.destroy_process_group()
    assert json.loads((tmp_path / "rank0.json").read_text())["pid"] == os.getpid()
