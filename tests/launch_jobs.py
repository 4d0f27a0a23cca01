"""Jobs that `test_launch` starts as ranks of their own."""

import json
import os
import time
from pathlib import Path

import torch

from everytoken.errors import UserError
from everytoken.launch import global_rank


def report(folder: str) -> None:
    """Write down who one is."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
    place = {name: os.environ.get(name) for name in names} | {"pid": os.getpid()}
    (Path(folder) / f"rank{global_rank()}.json").write_text(json.dumps(place))


def last_rank_fails() -> None:
    """Rank 1 breaks while rank 0 waits for it."""
    if global_rank() == 1:
        raise RuntimeError("rank 1 broke")
    time.sleep(120)


def write_pid_and_wait(folder: str) -> None:
    """Say who one is, then wait to be ended."""
    report(folder)
    time.sleep(120)


def user_error() -> None:
    """All ranks find the same mistake."""
    raise UserError("mend this")


def last_rank_is_killed() -> None:
    """Rank 1 dies as if the machine had run out of memory."""
    if global_rank() == 1:
        os.kill(os.getpid(), 9)
    time.sleep(120)


def last_rank_has_a_user_error() -> None:
    """Rank 1 alone finds a mistake, while rank 0 waits for it."""
    torch.distributed.init_process_group("gloo")
    if global_rank() == 1:
        raise UserError("mend this")
    torch.distributed.all_reduce(torch.zeros(()))
