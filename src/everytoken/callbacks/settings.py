"""What settings of the callbacks may be, checked before anything heavy is imported."""

from collections.abc import Mapping
from typing import Any

from everytoken.errors import check_choice, check_number


def check_last_checkpoint(callback: Mapping[str, Any]) -> None:
    """Refuse arguments of `LastCheckpoint` that make no sense.

    Raises:
        UserError: the first of them; so do all functions here.
    """
    for key in ("every_n_steps", "keep"):
        check_number(f"callbacks.last_checkpoint.{key}", callback[key], int, low=1)


def check_machine_use(callback: Mapping[str, Any]) -> None:
    """Arguments of `MachineUse`."""
    seconds = callback["peak_seconds"]
    check_number("callbacks.machine_use.peak_seconds", seconds, float, low=0.001, most=60)


def check_predictions(callback: Mapping[str, Any]) -> None:
    """Arguments of `ShowPredictions`."""
    check_number("callbacks.show_predictions.rows", callback["rows"], int, low=1)


def check_best_checkpoint(callback: Mapping[str, Any]) -> None:
    """Arguments of `BestCheckpoint`; which metrics there are is known later."""
    if (mode := callback.get("mode")) is not None:
        check_choice("callbacks.best_checkpoint.mode", mode, ("min", "max"))


CHECKS = {
    "LastCheckpoint": check_last_checkpoint,
    "MachineUse": check_machine_use,
    "ShowPredictions": check_predictions,
    "BestCheckpoint": check_best_checkpoint,
}
"""By the name of the part."""
