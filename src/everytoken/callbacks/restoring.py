"""What Lightning restores from a checkpoint by guessing, or not at all, done by plain rules."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from everytoken.callbacks.averaging import AveragedWeights
from everytoken.callbacks.best_checkpoint import BestCheckpoint
from everytoken.callbacks.lightning_internals import (
    allow_steps,
    begin_after,
    end_step,
    restore_unsaved,
    unsaved_state,
)
from everytoken.callbacks.torch_internals import set_last_lr
from everytoken.errors import UserError
from everytoken.run.checkpoint_file import CheckpointFiles, is_whole, step_of
from everytoken.runtime.console import log, warn
from everytoken.training.module import TokenModule
from everytoken.training.schedule import extension


@dataclass(frozen=True)
class Position:
    """Between which steps a resumed run begins.

    Lightning would restore the counters of all its loops and guess from them whether a validation
    was broken off; it then repeats some and leaves out others. Here a resumed fit is a new one
    whose counters of steps begin at `step`.
    """

    max_steps: int
    """Of the trainer."""
    is_due: bool
    """True if the validation of this step is still to be made."""
    has_ended: bool
    """True if there is nothing more to train: early stopping, say."""

    @classmethod
    def take(cls, trainer: L.Trainer, step: int, *, is_due: bool, has_ended: bool) -> "Position":
        """Place a trainer, whose loops haven't run yet, after a step."""
        begin_after(trainer, step, logged=step - is_due)
        max_steps = trainer.max_steps
        if step == max_steps:  # let the fit begin all the same: its end is still to come
            allow_steps(trainer, max_steps + 1)
        return cls(max_steps, is_due, has_ended)

    def complete(self, trainer: L.Trainer) -> None:
        """Do what is left to do of the step; called when the fit has begun."""
        allow_steps(trainer, self.max_steps)
        if trainer.global_step == self.max_steps:
            trainer.should_stop = True  # the last step is validated whatever the interval
        if self.is_due:
            end_step(trainer)
        if self.has_ended:
            trainer.should_stop = True


@dataclass
class Hyperparameters:
    """Settings of the optimizer follow the config, also where it was changed for a resumed run.

    A state dict of torch brings its own along, which would silently win.
    """

    before: list[dict[str, Any]]
    """`defaults` of each optimizer when the checkpoint was saved."""
    states: list[dict[str, Any]]
    """The state dict of each optimizer in the checkpoint."""
    seen: list[list[dict[str, Any]]] = field(default_factory=list)
    """Parameter groups as the config makes them."""

    @staticmethod
    def defaults_of(trainer: L.Trainer) -> list[dict[str, Any]]:
        """What each optimizer was made with."""
        return [dict(optimizer.defaults) for optimizer in trainer.optimizers]

    def see(self, trainer: L.Trainer) -> None:
        """To be called before the optimizers' state is loaded.

        Raises:
            UserError: it is of other groups of parameters.
        """
        for optimizer, state in zip(trainer.optimizers, self.states, strict=False):
            own, saved = optimizer.param_groups, state["param_groups"]
            if len(own) != len(saved) or not all(map(_are_alike, own, saved)):
                raise UserError(
                    "parameter_groups makes other groups than when the checkpoint was saved: leave "
                    "its choice and its patterns as they were, or start a new run"
                )
        self.seen = [
            [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]

    def follow_config(self, trainer: L.Trainer, module: TokenModule, steps: int | None) -> None:
        """To be called after it; changes nothing unless the config was changed.

        Args:
            trainer: whose optimizers.
            module: made them.
            steps: of the run, by the config that it had so far; None if the checkpoint is too old
                to say.

        Raises:
            UserError: a new learning rate or more steps, with a schedule that can't take them over.
        """
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        for optimizer, before, seen in zip(trainer.optimizers, self.before, self.seen, strict=True):
            changed = {k for k, v in optimizer.defaults.items() if k in before and before[k] != v}
            rates = "optimizer.lr" if "lr" in changed else None
            for group, fresh in zip(optimizer.param_groups, seen, strict=True):
                if group.get("lr_factor") != fresh.get("lr_factor"):
                    rates = rates or "lr_factor of parameter_groups"
                    group.pop("lr_factor", None)
                # Groups of their own have these two; no schedule changes them.
                followed = (changed | {"weight_decay", "lr_factor"}) - {"lr"}
                group.update({key: fresh[key] for key in followed & fresh.keys()})
            for scheduler in schedulers:
                if isinstance(scheduler, LRScheduler) and scheduler.optimizer is optimizer:
                    _schedule(optimizer, scheduler, seen, rates)
                    _tell_extension(module, scheduler, steps)


def _are_alike(group: dict[str, Any], saved: dict[str, Any]) -> bool:
    """True if a group is of the parameters that a saved one was of, as far as they have names."""
    names, saved_names = group.get("param_names"), saved.get("param_names")
    if names is not None and saved_names is not None:
        return names == saved_names
    return len(group["params"]) == len(saved["params"])


def _schedule(
    optimizer: Optimizer, scheduler: LRScheduler, seen: list[dict[str, Any]], changed: str | None
) -> None:
    if not isinstance(scheduler, LambdaLR):
        if changed:
            raise UserError(
                f"{changed} can't be changed on the way with {type(scheduler).__name__}: leave it "
                "as it was"
            )
        return
    if changed:
        scheduler.base_lrs = [group["initial_lr"] for group in seen]
    pairs = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    rates = [base * factor(scheduler.last_epoch) for base, factor in pairs]
    for group, base, rate in zip(optimizer.param_groups, scheduler.base_lrs, rates, strict=True):
        group["initial_lr"], group["lr"] = base, rate
    set_last_lr(scheduler, rates)


def _tell_extension(module: TokenModule, scheduler: LRScheduler, steps: int | None) -> None:
    """Say what another number of steps changes of what is learned."""
    now, own = module.total_steps, getattr(scheduler, "total_steps", None)
    if isinstance(own, int) and own < now:  # torch's own: it would end the run when it is over
        raise UserError(
            f"{type(scheduler).__name__} is laid out over {own} steps, and can't go on to {now}: "
            "leave trainer.max_steps or trainer.max_epochs as it was, or start a new run"
        )
    if steps is None or steps == now:
        return
    if (found := extension(module.make_scheduler, scheduler, steps, now)) is None:
        log(
            f"the schedule goes on as it was: with {now} steps instead of {steps} the learning "
            f"rate of step {scheduler.last_epoch + 1} is {scheduler.get_last_lr()[0]:.3g}"
        )
    else:
        step, before, after = found
        warn(
            f"the schedule is laid out over {now} steps and no longer over {steps}, so the "
            f"learning rate of step {step} {before:.3g} -> {after:.3g}: from here on this is no "
            "longer the same run"
        )


def follow_callbacks(
    trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
) -> None:
    """Fit a checkpoint to a directory that was moved, and to callbacks that were changed."""
    callbacks: list[L.Callback] = trainer.callbacks  # pyright: ignore
    folder = str(Path(trainer.default_root_dir) / "checkpoints")
    for callback in callbacks:
        state = checkpoint["callbacks"].get(callback.state_key)
        if state is None:
            continue
        if isinstance(callback, ModelCheckpoint):
            before = state.get("dirpath", folder)
            if "dirpath" in state:
                callback.current_score = state["current_score"]  # which it saves, and doesn't load
                if str(callback.dirpath) == folder:  # it forgets its best if the folder differs
                    state.update({k: _moved(v, before, folder) for k, v in state.items()})
            if unsaved := checkpoint["resume"].get("unsaved", {}).get(callback.state_key):
                unsaved = {k: _moved(v, before, str(callback.dirpath)) for k, v in unsaved.items()}
                restore_unsaved(callback, unsaved)
        if isinstance(callback, EarlyStopping):
            state["patience"] = callback.patience
    averaged = "current_model_state" in checkpoint
    if averaged and not any(isinstance(c, AveragedWeights) for c in callbacks):
        trained = {"state_dict": checkpoint["current_model_state"]}
        trainer.strategy.load_model_state_dict(trained, strict=module.strict_loading)


def unsaved_of_callbacks(trainer: L.Trainer) -> dict[str, dict[str, Any]]:
    """What Lightning's callbacks forget to save, by their keys in a checkpoint; ours don't."""
    found = (c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint))
    theirs = [callback for callback in found if not isinstance(callback, BestCheckpoint)]
    return {callback.state_key: unsaved_state(callback) for callback in theirs}


def overwrite_lost_files(trainer: L.Trainer) -> None:
    """Have callbacks write again, under their names, what a process that was killed had written.

    What it had written beyond the step from which the run goes on is lost to their records. They
    would write it a second time beside it, as NAME-v1.
    """
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            callback.file_exists = partial(_is_taken, callback.file_exists)


def _is_taken(
    file_exists: Callable[[Any, L.Trainer], bool], filepath: str | Path, trainer: L.Trainer
) -> bool:
    if not file_exists(filepath, trainer):
        return False
    path, files = Path(filepath), CheckpointFiles.of(trainer)
    is_lost = (
        trainer.is_global_zero
        and path not in files.written
        and is_whole(path)
        and step_of(path) >= trainer.global_step
    )
    return not trainer.strategy.broadcast(is_lost)


def _moved(value: Any, before: str, after: str) -> Any:
    if isinstance(value, str) and value.startswith(before):
        return after + value.removeprefix(before)
    if isinstance(value, dict):
        return {_moved(k, before, after): _moved(v, before, after) for k, v in value.items()}
    return value
