"""What ends a run early, as its config says: a run that has ended goes on once it is changed."""

from collections.abc import Mapping
from typing import Any

SETTINGS = (
    *("monitor", "patience", "min_delta", "check_finite"),
    *("stopping_threshold", "divergence_threshold"),
)
"""Of early stopping: with others a run that was ended may go on."""


def early_stopping(callbacks: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Of the callbacks of a config those that stop early, by name."""
    return {str(name): part for name, part in callbacks.items() if part and _stops(part)}


def stopping_keys(callbacks: Mapping[str, Any]) -> dict[str, Any]:
    """Their settings, by the keys that are typed."""
    parts = early_stopping(callbacks).items()
    return {f"callbacks.{name}.{key}": part.get(key) for name, part in parts for key in SETTINGS}


def _stops(part: Mapping[str, Any]) -> bool:
    return "patience" in part or str(part.get("_target_")).endswith(".EarlyStopping")
