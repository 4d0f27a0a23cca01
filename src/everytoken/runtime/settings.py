"""What settings of the machine may be, checked before anything heavy is imported."""

import os
from collections.abc import Mapping
from typing import Any

from everytoken.errors import UserError, check_choice, check_number
from everytoken.runtime.world import world

LEAST_MEMORY = 0.5
"""GiB that a process takes before it has a model: torch, mostly."""
MOST_HOURS, MOST_SECONDS = 100_000, 1_000_000
"""Of a timer: poll(2), by which loaders wait, counts milliseconds in 31 bits."""


def cores() -> int:
    """Of this machine, as many as this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_processes() -> int:
    """Most processes that can work on the CPUs of this machine at a time, one a core.

    Fewer if its memory is short; at least four, for trying things out.
    """
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        memory = float("inf")
    return int(max(4, min(cores(), memory / LEAST_MEMORY)))


def _on_gpus(accelerator: str) -> bool:
    """True if processes work on GPUs, of which there are enough, or they are refused."""
    if accelerator == "auto":
        import torch  # only here: it takes seconds

        return torch.cuda.is_available()
    return accelerator == "cuda"


def check_tensor_parallel(split: int, ranks: int) -> None:
    """Refuse to have so many ranks split matrices.

    Raises:
        UserError: not all ranks would have others to do so with.
    """
    if ranks % split:
        raise UserError(
            f"trainer.tensor_parallel={split} must divide the {ranks} processes of a run: change "
            "it, or how many there are (trainer.devices, or what the launcher starts)"
        )


def check_machine(trainer: Mapping[str, Any]) -> None:
    """Refuse devices and ways to use them that make no sense.

    Raises:
        UserError: the first of them.
    """
    devices, nodes, strategy = (trainer[key] for key in ("devices", "num_nodes", "strategy"))
    check_number("trainer.num_nodes", nodes, int, low=1)
    if not isinstance(devices, int | str):
        names = ",".join(map(str, devices)) if hasattr(devices, "__iter__") else "0,1"
        raise UserError(
            f"trainer.devices={devices} must be how many: which GPUs they are says "
            f"CUDA_VISIBLE_DEVICES={names}, before the command"
        )
    if devices != "auto":
        check_number("trainer.devices", devices, int, low=1)
        assert isinstance(devices, int)
        if devices > (most := cpu_processes()) and not _on_gpus(trainer["accelerator"]):
            raise UserError(
                f"trainer.devices={devices} processes are too many for the CPUs and the memory of "
                f"this machine: use at most trainer.devices={most}"
            )
    limit, patience = trainer["time_limit"], trainer["hang_timeout"]
    check_number("trainer.time_limit", limit, float, low=0.001, most=MOST_HOURS, optional=True)
    check_number("trainer.hang_timeout", patience, float, low=1, most=MOST_SECONDS)
    check_choice("trainer.accelerator", trainer["accelerator"], ("auto", "cpu", "cuda"))
    check_choice("trainer.strategy", strategy, ("auto", "ddp", "fsdp"))
    for key, choices in (("sharded_checkpoints", ("auto",)), ("async_checkpoints", ())):
        if not isinstance(trainer[key], bool) and trainer[key] not in choices:
            names = ", ".join((*choices, "true", "false"))
            raise UserError(f"trainer.{key} must be one of {names}, got {trainer[key]!r}")
    check_number("trainer.tensor_parallel", split := trainer["tensor_parallel"], int, low=1)
    if split > 1 and strategy != "fsdp":
        raise UserError(
            f"trainer.tensor_parallel={split} goes with trainer=fsdp only: choose that, or "
            "trainer.tensor_parallel=1"
        )
    if world() is None and isinstance(devices, int):
        check_tensor_parallel(split, devices)
    if strategy == "auto" and (devices not in (1, "auto") or nodes > 1):
        which = f"devices={devices}" if nodes == 1 else f"num_nodes={nodes}"
        raise UserError(
            f"trainer.{which} needs a strategy: "
            "use trainer=ddp, trainer=ddp_cpu or trainer.strategy=ddp"
        )
