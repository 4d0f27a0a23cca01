"""Ranks that another launcher started agree with rank 0 on the run."""

import json
import os
from pathlib import Path

import pytest

from everytoken.errors import UserError
from everytoken.runtime.launch import free_port
from everytoken.runtime.rendezvous import agreed
from support import prefork

CHOOSES_ITS_OWN = """
import os, sys
from pathlib import Path
from everytoken.runtime.rendezvous import agreed
print(agreed(lambda: Path("run-of-rank-" + os.environ.get("RANK", os.environ.get("SLURM_PROCID")))))
sys.stdin.read()  # as in a run, rank 0 is there until the others are done
"""
HAS_NOTHING_TO_DO = """
import sys
from everytoken.runtime.rendezvous import agreed
print(agreed(lambda: None))
sys.stdin.read()
"""


SAYS_WHERE_GRADIENTS_MEET = """
import os, sys
from pathlib import Path
from everytoken.runtime.rendezvous import agreed
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


def meet(code: str, places: list[dict[str, str]]) -> dict[str, str]:
    """What ranks print, by rank, that start in this order; rank 0 ends last."""
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    done = prefork.run(Path.cwd(), "-c", MEET, json.dumps([code, places]), env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


TORCHRUN = [{"RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": "2"} for r in (1, 0)]
SRUN = [
    {"SLURM_PROCID": str(r), "SLURM_LOCALID": str(r), "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7"}
    for r in (0, 1)
]


@pytest.mark.parametrize("places", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_all_take_what_rank_0_chooses(places: list[dict[str, str]]):
    """Whoever comes first."""
    assert meet(CHOOSES_ITS_OWN, places) == {"0": "run-of-rank-0", "1": "run-of-rank-0"}


def test_that_there_is_nothing_to_do_is_agreed_on_too():
    assert meet(HAS_NOTHING_TO_DO, TORCHRUN) == {"0": "None", "1": "None"}


def test_ranks_that_torchrun_starts_again_meet_elsewhere():
    """Where they met before, the addresses of those that died may still stand."""
    port, again = str(free_port()), {"TORCHELASTIC_RESTART_COUNT": "1"}
    env = again | {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": port}
    said = meet(SAYS_WHERE_GRADIENTS_MEET, [place | env for place in TORCHRUN])
    assert said["0"] == said["1"] != f"{port} False"
    assert said["0"].endswith(" False")


def test_who_finds_no_rank_0_says_so(monkeypatch: pytest.MonkeyPatch):
    for name, value in {**TORCHRUN[0], "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setattr("everytoken.runtime.rendezvous.SECONDS", 1)
    with pytest.raises(UserError, match=r"^rank 1 can't reach rank 0 \(") as told:
        agreed(lambda: Path("its own"))
    assert "\n" not in str(told.value)


def test_a_process_alone_chooses_for_itself():
    assert agreed(lambda: Path("mine")) == Path("mine")
