"""Jobs that `test_launch` starts as ranks of their own."""

import atexit
import json
import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from everytoken.errors import UserError
from everytoken.runtime.world import global_rank


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


def last_rank_stops_slowly() -> None:
    """Rank 1 is asked to stop and takes a second, while rank 0 breaks since it is gone."""
    if global_rank() == 0:
        raise RuntimeError("Connection closed by peer")
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        time.sleep(1)


def last_rank_hangs() -> None:
    """Rank 1 does something else while rank 0 waits for it, and doesn't hear signals either."""
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=2))
    if global_rank() == 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(120)
    torch.distributed.all_reduce(torch.zeros(()))


class Aborts:
    """As what waits for another rank may do when it is torn down."""

    def __del__(self) -> None:
        os.abort()


left_over: list[Aborts] = []


def leave_something_that_aborts() -> None:
    """As gloo's threads do now and then if Python is torn down after the last collective."""
    torch.distributed.init_process_group("gloo")
    torch.distributed.all_reduce(torch.zeros(()))
    left_over.append(Aborts())


def last_rank_is_lost() -> None:
    """Rank 1 fails without a word, while rank 0 waits for it."""
    torch.distributed.init_process_group("gloo")
    if global_rank() == 1:
        os._exit(1)
    atexit.register(print, "rank 0 has tidied up")
    left_over.append(Aborts())
    torch.distributed.all_reduce(torch.zeros(()))


class Killing(torch.utils.data.Dataset[int]):
    """Kills the process that reads it."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


class Stopping(Killing):
    """Stops the process that reads it, as a debugger does."""

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGSTOP)
        return index


def loader_is_stopped() -> None:
    """In a process without others, whom nobody would miss."""
    for _ in DataLoader(Stopping(), num_workers=1, timeout=1):
        pass


def loader_is_killed() -> None:
    """As when the machine has run out of memory."""
    for _ in DataLoader(Killing(), num_workers=1):
        pass
