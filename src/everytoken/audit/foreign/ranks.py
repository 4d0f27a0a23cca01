"""The same step and evaluation on two processes: forks of this one, which share all its objects."""

import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from everytoken.audit.foreign.door import Door
from everytoken.audit.foreign.terms import NotApplicableError, Step
from everytoken.errors import UserError
from everytoken.runtime.launch import free_port

RANKS = 2

SECONDS = 100
"""How long they may take; a rank that waits for one which is gone would wait for half an hour."""

STEP, ACCUMULATED, EVALUATION = "step", "accumulated", "evaluation"


def on_processes(door: Door) -> dict[str, Step]:
    """What two processes find, by name; they are started once for each door.

    Raises:
        NotApplicableError: no processes are wanted, or can be had.
        UserError: one of them failed.
    """
    if door.on_processes is None:
        try:
            door.on_processes = _start(door)
        except (NotApplicableError, UserError) as error:
            door.on_processes = error
    if isinstance(door.on_processes, Exception):
        raise door.on_processes
    return door.on_processes


def _start(door: Door) -> dict[str, Step]:
    if not door.settings.processes:
        raise NotApplicableError("no processes are wanted")
    if not hasattr(os, "fork"):
        raise NotApplicableError("this system can't fork, which alone carries any object over")
    if not torch.distributed.is_available() or torch.distributed.is_initialized():
        raise NotApplicableError(
            "this process is a rank already, or torch has no torch.distributed"
        )
    return fork(lambda rank: observe(door, rank))


def observe(door: Door, rank: int) -> dict[str, Step]:
    """What each process does."""
    count = len(door.examples)
    mine = (range(0, 3), range(3, count))[rank]  # few short ones here, many long ones there
    halves = (mine[: len(mine) // 2], mine[len(mine) // 2 :])
    found = {STEP: door.step([door.batch(mine)], RANKS)}
    try:
        found[ACCUMULATED] = door.step([door.batch(half) for half in halves if half], RANKS)
    except NotApplicableError:
        found[ACCUMULATED] = found[STEP]
    try:
        found[EVALUATION] = Step(logged=door.evaluate(2, RANKS))
    except NotApplicableError:
        found[EVALUATION] = Step()
    return found


def fork(job: Callable[[int], Any]) -> Any:
    """What rank 0 makes of a job on several processes.

    Raises:
        UserError: one of them failed, or hangs; with what it said last.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, address = Path(name), str(free_port())
        sys.stdout.flush()
        sys.stderr.flush()
        processes = [_child(job, rank, folder, address) for rank in range(RANKS)]
        failed = _wait(processes)
        result = folder / "0.pt"
        if failed is not None or not result.exists():
            lines = (folder / f"{failed or 0}.txt").read_text("utf-8", "replace").split("\n")
            said = next((line for line in reversed(lines) if line.strip()), "it hangs")
            raise UserError(f"rank {failed or 0} of {RANKS} failed: {said}")
        return torch.load(result, weights_only=False)


def _child(job: Callable[[int], Any], rank: int, folder: Path, port: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        file = os.open(folder / f"{rank}.txt", os.O_CREAT | os.O_WRONLY)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = sys.stderr = open(1, "w", encoding="utf-8")  # noqa: SIM115 (until the end)
        torch.set_num_threads(1)  # the parent's threads aren't here
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
        os.environ.update(place | address | {"LOCAL_WORLD_SIZE": str(RANKS)})
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", rank=rank, world_size=RANKS)
        found = job(rank)
        if rank == 0:
            torch.save(found, folder / "0.pt", pickle_module=pickle)
        torch.distributed.barrier()
        code = 0
    except BaseException:  # nothing may go back to the parent's code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(processes: list[int]) -> int | None:
    """The first rank that failed; None if all went well."""
    waiting = dict(enumerate(processes))
    failed: int | None = None
    deadline = time.monotonic() + SECONDS
    while waiting and failed is None:
        for rank, pid in [*waiting.items()]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del waiting[rank]
                if status and failed is None:
                    failed = rank
        if time.monotonic() > deadline:
            failed = min(waiting)
        time.sleep(0.02)
    for pid in waiting.values():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return failed
