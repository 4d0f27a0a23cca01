"""What settings of the machine may be, checked before anything heavy is imported."""

from collections.abc import Mapping
from typing import Any

from everytoken.errors import UserError, check_choice, check_number

MOST_PROCESSES = 1024
"""On one machine: more is a slip of the finger, and would bring the machine down."""


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
        check_number("trainer.devices", devices, int, low=1, most=MOST_PROCESSES)
    check_number("trainer.time_limit", trainer["time_limit"], float, low=0.001, optional=True)
    check_number("trainer.hang_timeout", trainer["hang_timeout"], float, low=1)
    check_choice("trainer.accelerator", trainer["accelerator"], ("auto", "cpu", "cuda"))
    check_choice("trainer.strategy", strategy, ("auto", "ddp", "fsdp"))
    if strategy == "auto" and (devices not in (1, "auto") or nodes > 1):
        raise UserError(
            f"trainer.devices={devices} needs a strategy: "
            "use trainer=ddp, trainer=ddp_cpu or trainer.strategy=ddp"
        )
