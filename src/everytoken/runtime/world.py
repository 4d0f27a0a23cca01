"""The ranks of a job, as whoever started them says: torchrun, srun or `launch`, never the config.

Imports nothing heavy.
"""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from everytoken.errors import UserError


class World(NamedTuple):
    """This process among those of its job."""

    rank: int
    local_rank: int
    """Among those of its machine."""
    node: int
    """Number of its machine."""
    size: int
    """Ranks of all machines."""
    local_size: int
    """Ranks of its machine."""
    nodes: int


def world() -> World | None:
    """What a launcher says in the environment; None in a process that is no rank.

    Raises:
        UserError: half of it is there.
    """
    env = os.environ
    try:
        if "LOCAL_RANK" in env:  # before SLURM: srun may have started torchrun
            return _of_torchrun(env)
        if _is_task_of_several():
            return _of_srun(env)
    except KeyError as error:
        raise UserError(
            f"LOCAL_RANK is set in the environment, and {error.args[0]} is not: start ranks by "
            "torchrun or srun, or unset LOCAL_RANK"
        ) from error
    return None


def check_started() -> None:
    """Refuse what a launcher was meant to start and didn't.

    Raises:
        UserError: inside a SLURM job of several tasks, without srun.
    """
    tasks = os.environ.get("SLURM_NTASKS", "1")
    if int(tasks) > 1 and "SLURM_STEP_NUM_TASKS" not in os.environ and world() is None:
        raise UserError(
            f"this SLURM job has {tasks} tasks, and srun has started none of them: put srun before "
            "the command, or ask for --ntasks=1"
        )


def check_alone(command: str) -> None:
    """Refuse to be one of several ranks.

    Raises:
        UserError: this process is.
    """
    if world() is not None:
        raise UserError(
            f"python -m {command} starts what processes it needs: run it without torchrun or srun"
        )


def is_launched() -> bool:
    """True in a process that torchrun, srun or `launch` started as a rank."""
    return "LOCAL_RANK" in os.environ or _is_task_of_several()


def global_rank() -> int:
    """The rank that the launcher gave this process; 0 without one.

    It stays what it is when Lightning has ended and taken the number of ranks with it.
    """
    env = os.environ
    if "LOCAL_RANK" in env:
        return int(env.get("RANK", env["LOCAL_RANK"]))  # Lightning gives no rank of all
    return int(env["SLURM_PROCID"]) if _is_task_of_several() else 0


def _is_task_of_several() -> bool:
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def may_restart() -> bool:
    """True under a torchrun that starts all ranks again if one fails."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def _of_torchrun(env: Mapping[str, str]) -> World:
    """`launch` uses the same names, on one machine only."""
    size = int(env["WORLD_SIZE"])
    return World(
        rank=global_rank(),
        local_rank=int(env["LOCAL_RANK"]),
        node=int(env.get("GROUP_RANK", "0")),
        size=size,
        local_size=int(env.get("LOCAL_WORLD_SIZE", size)),
        nodes=int(env.get("GROUP_WORLD_SIZE", "1")),
    )


def _of_srun(env: Mapping[str, str]) -> World:
    """Of the step: a job may ask for more tasks than srun was told to start."""
    node = int(env["SLURM_NODEID"])
    return World(
        rank=global_rank(),
        local_rank=int(env["SLURM_LOCALID"]),
        node=node,
        size=int(env["SLURM_STEP_NUM_TASKS"]),
        local_size=_tasks(env["SLURM_STEP_TASKS_PER_NODE"])[node],
        nodes=int(env["SLURM_STEP_NUM_NODES"]),
    )


def _tasks(counts: str) -> list[int]:
    """Tasks of each node, which SLURM writes as 2(x3),1."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
    return [int(tasks) for tasks, times in found for _ in range(int(times or 1))]
