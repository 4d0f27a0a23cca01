"""Ranks that another launcher started agree with rank 0 on the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from everytoken.launch import free_port
from everytoken.meeting import agreed

CHOOSES_ITS_OWN = """
import os
from pathlib import Path
from everytoken.meeting import agreed
print(agreed(lambda: Path("run-of-rank-" + os.environ.get("RANK", os.environ.get("SLURM_PROCID")))))
"""
HAS_NOTHING_TO_DO = "from everytoken.meeting import agreed; print(agreed(lambda: None))"
FAILS = """
from everytoken import meeting
from everytoken.errors import UserError
def choose():
    raise UserError("no such run")
try:
    meeting.agreed(choose)
except UserError as error:
    print(error)
"""


def meet(code: str, places: list[dict[str, str]]) -> list[str]:
    """What ranks print that start in this order."""
    port = str(free_port())
    ranks = []
    for place in places:
        env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **os.environ, **place}
        command = [sys.executable, "-c", code]
        ranks.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
    said = [rank.communicate(timeout=100)[0].strip() for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks)
    return said


TORCHRUN = [{"RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": "2"} for r in (1, 0)]
SRUN = [
    {"SLURM_PROCID": str(r), "SLURM_LOCALID": str(r), "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7"}
    for r in (0, 1)
]


@pytest.mark.parametrize("places", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_all_take_what_rank_0_chooses(places: list[dict[str, str]]):
    """Whoever comes first."""
    assert meet(CHOOSES_ITS_OWN, places) == ["run-of-rank-0"] * 2


def test_that_there_is_nothing_to_do_is_agreed_on_too():
    assert meet(HAS_NOTHING_TO_DO, TORCHRUN) == ["None", "None"]


def test_if_rank_0_fails_the_others_say_that_it_is_gone():
    other, first = meet(FAILS, TORCHRUN)
    assert first == "no such run"
    assert other.startswith("rank 1 can't reach rank 0 (")
    assert "\n" not in other


def test_a_process_alone_chooses_for_itself():
    assert agreed(lambda: Path("mine")) == Path("mine")
