"""Why a run ended before its last step, whether it still would, and whether it is of any use."""

from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from everytoken.callbacks.stop import StopOnRequest
from everytoken.config.literal import shown_command
from everytoken.run.directory import Run
from everytoken.run.early_stopping import SETTINGS, early_stopping

REMEDIES = {
    EarlyStoppingReason.PATIENCE_EXHAUSTED: "patience",
    EarlyStoppingReason.STOPPING_THRESHOLD: "stopping_threshold",
    EarlyStoppingReason.DIVERGENCE_THRESHOLD: "divergence_threshold",
    EarlyStoppingReason.NON_FINITE_METRIC: "check_finite",
}
"""Which setting lets a run go on, by why it ended."""


def stopping_settings(callbacks: Iterable[L.Callback]) -> list[dict[str, Any]]:
    """What ends a run early, as plain values: a run goes on once they are others."""
    stopping = [callback for callback in callbacks if isinstance(callback, EarlyStopping)]
    return [{name: getattr(callback, name) for name in SETTINGS} for callback in stopping]


def forget_end(callbacks: Iterable[L.Callback], states: Mapping[str, Any]) -> None:
    """Take out of states, by their keys in a checkpoint, that a run has ended which goes on.

    A patience that is used up begins anew: else whoever gave the run more steps would get those to
    the next validation. One that was raised goes on counting, as if it had been so from the first.
    """
    for callback in callbacks:
        state = states.get(callback.state_key)
        if isinstance(callback, EarlyStopping) and state is not None:
            state["stopping_reason"] = EarlyStoppingReason.NOT_STOPPED.value
            state["stopping_reason_message"] = None
            if state["wait_count"] >= callback.patience:
                state["wait_count"] = 0


def told(trainer: L.Trainer, run: Run, parts: Mapping[str, Any]) -> str | None:
    """Why a fit that is over ended early and how it goes on, in a line; None if it didn't.

    Args:
        trainer: after the fit.
        run: its run, which is noted to have ended early.
        parts: configs of its callbacks by name.
    """
    if (reason := early_end(trainer)) is None:
        return None
    step, steps = trainer.global_step, trainer.max_steps
    callbacks: list[L.Callback] = trainer.callbacks  # pyright: ignore
    more = _remedies(callbacks, parts)
    if trainer.is_global_zero:
        run.note_early_end({"step": step, "of": steps, "reason": reason, "unless": more})
    line = f"ended early at step {step} of {steps}: {reason}"
    again = shown_command("train", resume=run.shown, **more)
    return f"{line}; to go on: {again}" if more else line


def _remedies(callbacks: Iterable[L.Callback], parts: Mapping[str, Any]) -> dict[str, Any]:
    """What to type for a run to go on that early stopping has ended, by key."""
    found = {}
    for callback in callbacks:
        if not isinstance(callback, EarlyStopping) or callback.stopping_reason not in REMEDIES:
            continue
        key = REMEDIES[callback.stopping_reason]
        value = {"patience": max(1, 2 * callback.patience), "check_finite": False}.get(key)
        for name, part in early_stopping(parts).items():
            if part.get("monitor") == callback.monitor:
                found[f"{'' if key in part else '+'}callbacks.{name}.{key}"] = value
    return found


def early_end(trainer: L.Trainer) -> str | None:
    """Why a fit that is over made fewer steps than it could, in words; None if it didn't.

    One that was asked to stop hasn't ended: it is going to go on.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # pyright: ignore
    if trainer.global_step >= trainer.max_steps:
        return None
    if any(isinstance(c, StopOnRequest) and c.reason for c in callbacks):
        return None
    stopping = [callback for callback in callbacks if isinstance(callback, EarlyStopping)]
    reasons = [reason for callback in stopping if (reason := _reason(callback))]
    return " and ".join(reasons) or "a callback asked for it"


def lost(trainer: L.Trainer) -> str | None:
    """What is wrong after a fit if val/loss or what callbacks monitor isn't finite; else None.

    Training's own losses are finite, or the fit would have ended.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # pyright: ignore
    monitored = {"val/loss", *(getattr(callback, "monitor", None) for callback in callbacks)}
    wrong = [
        f"{name} is {value:g}"
        for name, value in trainer.callback_metrics.items()
        if name in monitored and not value.isfinite()
    ]
    if not wrong:
        return None
    return (
        f"{' and '.join(wrong)} in the last validation, at step {trainer.global_step}: training's "
        "losses are finite, so look at what the model does in evaluation"
    )


def _reason(callback: EarlyStopping) -> str | None:
    monitor, best = callback.monitor, float(callback.best_score)
    return {
        EarlyStoppingReason.PATIENCE_EXHAUSTED: f"{monitor} has not improved in the last "
        f"{callback.wait_count} validations, its best is {best:.4g}",
        EarlyStoppingReason.STOPPING_THRESHOLD: f"{monitor} has reached "
        f"{callback.stopping_threshold}",
        EarlyStoppingReason.DIVERGENCE_THRESHOLD: f"{monitor} is beyond "
        f"{callback.divergence_threshold}",
        EarlyStoppingReason.NON_FINITE_METRIC: f"{monitor} is not finite",
    }.get(callback.stopping_reason)
