"""What a callback watches, and which way that is better: as the metric says itself."""

import inspect
from collections.abc import Mapping

import lightning as L
from hydra.utils import get_object
from omegaconf import DictConfig, open_dict

from everytoken.errors import UserError
from everytoken.training.evaluation_metrics import EvaluationMetrics

OF_TRAINING: dict[str, bool | None] = {
    "train/loss": False,
    "train/accuracy": True,
    "train/gradient_norm": None,
}
"""What a step logs that can be watched, and whether more of it is better; None if nobody knows."""


def directions(metrics: EvaluationMetrics) -> dict[str, bool | None]:
    """All that can be watched, and whether more of it is better; None for what doesn't say."""
    validated = {f"val/{name}": metrics.higher_is_better(name) for name in metrics.names}
    return validated | OF_TRAINING


def fill_modes(parts: DictConfig, metrics: EvaluationMetrics) -> None:
    """Give each callback that watches a metric, and has no mode, the metric's own direction.

    Args:
        parts: configs of callbacks by name; changed.
        metrics: of validation.

    Raises:
        UserError: a metric that isn't logged, or one that doesn't say which way it improves.
    """
    known = directions(metrics)
    for name, part in parts.items():
        if not isinstance(part, DictConfig) or part.get("monitor") is None:
            continue
        if part.get("mode") is not None or not _takes_mode(part):
            continue
        higher = known[_logged(f"callbacks.{name}.monitor", part.monitor, known)]
        if higher is None:
            raise UserError(
                f"it isn't known whether more of {part.monitor} is better: add "
                f"callbacks.{name}.mode=min or callbacks.{name}.mode=max, or let the metric say it "
                "with higher_is_better"
            )
        with open_dict(part):
            part.mode = _mode(higher)


def check_monitors(callbacks: Mapping[str, L.Callback], metrics: EvaluationMetrics) -> None:
    """Refuse a callback that watches what is never logged, or takes the worst for the best.

    Args:
        callbacks: by the name that they have in the config.
        metrics: of validation.

    Raises:
        UserError: with what can be watched, or the mode.
    """
    known = directions(metrics)
    for name, callback in callbacks.items():
        if (monitor := getattr(callback, "monitor", None)) is None:
            continue
        higher = known[_logged(f"callbacks.{name}.monitor", monitor, known)]
        mode = getattr(callback, "mode", None)
        if higher is not None and mode in ("min", "max") and mode != _mode(higher):
            raise UserError(
                f"callbacks.{name}.mode={mode} would take the worst {monitor} for the best: leave "
                f"it out, or give callbacks.{name}.mode={_mode(higher)}"
            )


def _logged(key: str, monitor: object, known: Mapping[str, bool | None]) -> str:
    if not isinstance(monitor, str) or monitor not in known:
        raise UserError(f"{key}={monitor} is never logged: choose one of {', '.join(known)}")
    return monitor


def _mode(higher_is_better: bool) -> str:
    return "max" if higher_is_better else "min"


def _takes_mode(part: DictConfig) -> bool:
    parameters = inspect.signature(get_object(part._target_)).parameters
    return "mode" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
