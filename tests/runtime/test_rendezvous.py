"""Ranks that another launcher started agree with rank 0 on the run."""

import json
import os
import signal
import socket
from pathlib import Path

import pytest
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from everytoken.errors import UserError
from everytoken.runtime.agreement import agreed
from everytoken.runtime.launch import free_port
from everytoken.runtime.rendezvous import meet as meet_all
from everytoken.runtime.store import ADDRESS
from support import prefork

CHOOSES_ITS_OWN = """
import os, sys
from pathlib import Path
from everytoken.runtime.agreement import agreed
from everytoken.runtime.world import global_rank
folder = Path(f"run-of-rank-{global_rank()}")
folder.mkdir()
print(agreed(lambda: folder, 100))
sys.stdin.read()  # as in a run, rank 0 is there until the others are done
"""
HAS_NOTHING_TO_DO = """
import sys
from everytoken.runtime.agreement import agreed
print(agreed(lambda: None, 100))
sys.stdin.read()
"""


SEES_NOTHING = """
import os, sys
from pathlib import Path
from everytoken.runtime.agreement import agreed
if os.environ["RANK"] == "1":
    Path.is_dir = lambda folder: False  # as on a machine that doesn't share it
try:
    agreed(Path.cwd, 100)
except Exception as error:
    print(error)
except SystemExit as left:
    print(left.code)
"""
BREAKS = """
import os
from everytoken.runtime.agreement import agreed
try:
    agreed(lambda: 1 / 0, 100)
except ZeroDivisionError:
    print("breaks")
except SystemExit as left:
    print(left.code)
"""
CANT_DECIDE = """
from everytoken.errors import UserError
from everytoken.runtime.agreement import agreed
def decide():
    raise UserError("no such run")
try:
    agreed(decide, 100)
except UserError as error:
    print(error)
except SystemExit as left:
    print(left.code)
"""
IS_MISSED = """
import os, sys
from everytoken.runtime import rendezvous
rendezvous.meet(100)
if os.environ["RANK"] == "1":
    os._exit(0)
rendezvous.TRY_SECONDS = 1
print(rendezvous.lost())
"""


MEET = """
import os, sys
from pathlib import Path
from everytoken.runtime.agreement import agreed
agreed(lambda: Path("run"))
print(os.environ["MASTER_PORT"], os.environ["TORCHELASTIC_USE_AGENT_STORE"])
sys.stdin.read()
"""


MEET = """
import json, os, subprocess, sys
code, places = json.loads(sys.argv[1])
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
ranks = {}
for place in places:
    rank = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **place}, **pipes)
    ranks[place.get("RANK", place.get("SLURM_PROCID"))] = rank
said = {name: ranks[name].communicate(timeout=100)[0].strip() for name in ("1", "0")}
assert all(rank.returncode == 0 for rank in ranks.values())
print(json.dumps(said))
"""


def meet(folder: Path, code: str, places: list[dict[str, str]]) -> dict[str, str]:
    """What ranks print, by rank, that start in this order; rank 0 ends last."""
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    done = prefork.run(folder, "-c", MEET, json.dumps([code, places]), env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


TORCHRUN = [{"RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": "2"} for r in (1, 0)]
STEP = {
    **{"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NODEID": "0"},
    **{"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"},
    **{"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "localhost"},
}
SRUN = [STEP | {"SLURM_PROCID": str(r), "SLURM_LOCALID": str(r)} for r in (0, 1)]


@pytest.mark.parametrize("places", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_all_take_what_rank_0_chooses(tmp_path: Path, places: list[dict[str, str]]):
    """Whoever comes first."""
    chosen = str(tmp_path / "run-of-rank-0")
    code = CHOOSES_ITS_OWN.replace("Path(f", f"Path('{tmp_path}', f")
    assert meet(tmp_path, code, places) == {"0": chosen, "1": chosen}


def test_that_there_is_nothing_to_do_is_agreed_on_too(tmp_path: Path):
    assert meet(tmp_path, HAS_NOTHING_TO_DO, TORCHRUN) == {"0": "None", "1": "None"}


def test_a_mistake_is_told_by_rank_0_and_ends_all(tmp_path: Path):
    assert meet(tmp_path, CANT_DECIDE, TORCHRUN) == {"0": "no such run", "1": "2"}


def test_if_rank_0_breaks_no_other_takes_it_for_nothing_to_do(tmp_path: Path):
    assert meet(tmp_path, BREAKS, TORCHRUN) == {"0": "breaks", "1": "1"}


def test_a_machine_that_does_not_share_the_run_directory_is_named(tmp_path: Path):
    said = meet(tmp_path, SEES_NOTHING, TORCHRUN)
    assert said["0"].startswith(f"{socket.gethostname()} can't see the run directory {tmp_path}: ")
    assert said["1"] == "2"


def test_who_is_missed_is_named(tmp_path: Path):
    said = meet(tmp_path, IS_MISSED, TORCHRUN)
    assert said == {"0": f"rank 1 on {socket.gethostname()}", "1": ""}


def test_ranks_that_torchrun_starts_again_do_not_take_the_address_of_those_before(tmp_path: Path):
    """Its store may live on, with what those wrote who are gone."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store.set(ADDRESS, f"127.0.0.1 {free_port()}")
    again = {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": str(store.port)}
    chosen = str(tmp_path / "run-of-rank-0")
    code = CHOOSES_ITS_OWN.replace("Path(f", f"Path('{tmp_path}', f")
    places = [place | again for place in TORCHRUN]
    assert meet(tmp_path, code, places) == {"0": chosen, "1": chosen}


def test_who_finds_no_rank_0_says_so(monkeypatch: pytest.MonkeyPatch):
    for name, value in {**TORCHRUN[0], "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setattr("everytoken.runtime.store.SECONDS", 1)
    with pytest.raises(UserError, match=r"^rank 1 on .* can't meet rank 0 \(") as told:
        agreed(lambda: Path("its own"), 100)
    assert "\n" not in str(told.value)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that is stopped")
def test_a_rank_0_that_is_stopped_as_ranks_meet_is_named(monkeypatch: pytest.MonkeyPatch):
    """Its store takes questions then, and answers none."""
    port = free_port()
    for name, value in {**TORCHRUN[0], "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(port))
    for place in ("rendezvous.SECONDS", "rendezvous.TRY_SECONDS", "store.SECONDS"):
        monkeypatch.setattr(f"everytoken.runtime.{place}", 1)
    if (rank_0 := os.fork()) == 0:
        store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
        os.kill(os.getpid(), signal.SIGSTOP)
        store.check([])
        os._exit(0)
    try:
        os.waitpid(rank_0, os.WUNTRACED)
        with pytest.raises(UserError, match=r"can't meet rank 0 \(no answer for 1 seconds\)"):
            meet_all(100)
    finally:
        os.kill(rank_0, signal.SIGKILL)
        os.waitpid(rank_0, 0)


@pytest.mark.bad_input
def test_a_place_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch):
    for name, value in TORCHRUN[0].items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="MASTER_ADDR and MASTER_PORT don't say where"):
        agreed(lambda: None, 100)


def test_a_process_alone_chooses_for_itself():
    assert agreed(lambda: Path("mine"), 100) == Path("mine")
