"""The same step and evaluation on two processes.

They are forks of this one, which have all its objects; where that won't work and the user gave a
function that makes them (`target=`), new processes, which call it anew.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch

from everytoken.audit.foreign.batches import tensors
from everytoken.audit.foreign.door import Door
from everytoken.audit.foreign.terms import NotApplicableError, Step
from everytoken.errors import UserError
from everytoken.runtime.launch import free_port

RANKS = 2

SECONDS = 100
"""How long they may take; a rank that waits for one which is gone would wait for half an hour."""

RESULT, GIVEN = "0.pt", "given.pt"
"""Files of ranks: what rank 0 found, and what a new process is given."""

CLIP_NORM = 1e-3
"""Shorter than any gradient of a step."""

STEP, ACCUMULATED, CLIPPED, EVALUATION = "step", "accumulated", "clipped", "evaluation"


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
    if not torch.distributed.is_available() or torch.distributed.is_initialized():
        raise NotApplicableError(
            "this process is a rank already, or torch has no torch.distributed"
        )
    if len(door.examples) < 2 * RANKS:
        raise NotApplicableError(f"{2 * RANKS} examples are needed for {RANKS} processes")
    reason = why_not_fork()
    if reason is None:
        return collected(
            lambda folder, port: forked(lambda rank: observe(door, rank), folder, port)
        )
    if door.target is None:
        raise NotApplicableError(
            f"{reason}, and nothing else carries your objects over: python -m audit target=… "
            "starts processes that make them anew"
        )
    return collected(lambda *where: spawned(door, *where))


def why_not_fork() -> str | None:
    """Why a fork of this process would be none that works; None if it would."""
    if not hasattr(os, "fork"):
        return "this system can't fork"
    if sys.platform == "darwin":
        return "a forked process of macOS can't use its libraries"
    if torch.cuda.is_initialized():
        return "a process that has used a GPU can't be forked"
    return None


def observe(door: Door, rank: int) -> dict[str, Step]:
    """What each process does."""
    with suppress(Exception):  # as before the checks
        door.learn()
    *few, many = door.uneven
    mine = ([i for part in few for i in part], many)[rank]  # few short ones, many long ones
    halves = (mine[: len(mine) // 2], mine[len(mine) // 2 :])
    found = {STEP: door.step([door.batch(mine)], RANKS)}
    parts = [door.batch(half) for half in halves if half]
    try:
        found[ACCUMULATED] = door.step(parts, RANKS)
    except NotApplicableError:
        found[ACCUMULATED] = found[STEP]
    with suppress(NotApplicableError), door.clipped(CLIP_NORM):
        found[CLIPPED] = door.step(parts, RANKS)
    try:
        found[EVALUATION] = Step(logged=door.evaluate(2, RANKS))
    except NotApplicableError:
        found[EVALUATION] = Step()
    return found


class Rank(Protocol):
    """A process: `subprocess.Popen`, or a fork."""

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""

    def kill(self) -> None:
        """End it, and wait for that."""


def collected(start: Callable[[Path, str], list[Rank]]) -> Any:
    """What rank 0 leaves in the folder that all ranks are given, with a port.

    Raises:
        UserError: one of them failed, or hangs; with what it said last.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sys.stdout.flush()
        sys.stderr.flush()
        failed = _wait(start(folder, str(free_port())))
        result = folder / RESULT
        if failed is not None or not result.exists():
            lines = (folder / f"{failed or 0}.txt").read_text("utf-8", "replace").split("\n")
            said = next((line for line in reversed(lines) if line.strip()), "it hangs")
            if "autograd's threading" in said:
                raise NotApplicableError(
                    "a process that has trained where there is a GPU can't be forked: "
                    "python -m audit target=… starts new ones"
                )
            raise UserError(f"rank {failed or 0} of {RANKS} failed: {said}")
        return torch.load(result, weights_only=False)


def as_rank(rank: int, folder: Path, job: Callable[[], Any]) -> None:
    """Join the others, do a job, and keep what rank 0 makes of it."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", rank=rank, world_size=RANKS)
    found = job()
    if rank == 0:
        torch.save(found, folder / RESULT, pickle_module=pickle)
    torch.distributed.barrier()


def variables(rank: int, port: str) -> dict[str, str]:
    """What torchrun sets, by which frameworks find each other."""
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
    return place | address | {"LOCAL_WORLD_SIZE": str(RANKS)}


class _Fork:
    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        ended, status = os.waitpid(self.pid, os.WNOHANG)
        return status if ended else None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def forked(job: Callable[[int], Any], folder: Path, port: str) -> list[Rank]:
    """Ranks that are forks of this process."""
    return [_Fork(_child(job, rank, folder, port)) for rank in range(RANKS)]


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
        os.environ.update(variables(rank, port))
        as_rank(rank, folder, lambda: job(rank))
        code = 0
    except BaseException:  # nothing may go back to the parent's code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def spawned(door: Door, folder: Path, port: str) -> list[Rank]:
    """Ranks that call the function of `target=` anew, and get this process's weights."""
    assert door.target is not None
    target, settings = door.target
    given = {"target": target, "settings": settings, "weights": door.model.state_dict()}
    torch.save(given | {"batches": [tensors(batch) for batch in door.alone]}, folder / GIVEN)
    ranks: list[Rank] = []
    for rank in range(RANKS):
        env = os.environ | variables(rank, port) | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "everytoken.audit.foreign.rank", str(folder)]
        with open(folder / f"{rank}.txt", "wb") as file:
            ranks.append(subprocess.Popen(command, env=env, stdout=file, stderr=file))
    return ranks


def _wait(ranks: list[Rank]) -> int | None:
    """The first rank that failed; None if all went well."""
    waiting = dict(enumerate(ranks))
    failed: int | None = None
    deadline = time.monotonic() + SECONDS
    while waiting and failed is None:
        for rank, process in [*waiting.items()]:
            status = process.poll()
            if status is not None:
                del waiting[rank]
                if status and failed is None:
                    failed = rank
        if time.monotonic() > deadline:
            failed = min(waiting)
        time.sleep(0.02)
    for process in waiting.values():
        process.kill()
    return failed
