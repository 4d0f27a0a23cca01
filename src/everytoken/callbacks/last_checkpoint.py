"""When checkpoints are saved, and how a run goes on from one."""

from pathlib import Path
from typing import Any

import lightning as L

from everytoken.callbacks.early_end import forget_end, stopping_settings
from everytoken.callbacks.restoring import (
    Hyperparameters,
    Position,
    follow_callbacks,
    overwrite_lost_files,
    unsaved_of_callbacks,
)
from everytoken.callbacks.stop import StopOnRequest
from everytoken.errors import BrokenRunError, UserError
from everytoken.run.checkpoint_file import CheckpointFiles, failure
from everytoken.run.directory import Run
from everytoken.run.metrics_file import MetricsFile
from everytoken.runtime.console import log
from everytoken.training.module import TokenModule

AMBIGUOUS = ("real_tokens",)
"""Logged by training, now and then, and by validation: which is the latest isn't known later."""


class LastCheckpoint(L.Callback):
    """Keeps checkpoints/last.ckpt, from which a run goes on bit for bit as if it hadn't stopped.

    It is saved between two steps, when everything of the first is done (logged, validated); before
    each validation, so that one that is broken off is made again; and at the end, or when the run
    is stopped. To be the first callback: others change their state, or the weights, in the hooks
    of these moments.

    Args:
        every_n_steps: optimizer steps between saves.
        keep: files, at least 1: last.ckpt and its predecessors, last-1.ckpt and so on.
    """

    def __init__(self, every_n_steps: int, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1 file, got {keep}")
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.is_due = False
        """True while a checkpoint is saved after which the validation of its step is to be made."""
        self.ended_at: int | None = None
        """Once training has ended by itself: the trainer's max_steps then."""
        self.saved_step = 0
        self.validated_step = 0
        self.resumed: Position | None = None
        self.metrics: dict[str, Any] = {}
        self.hyperparameters: Hyperparameters | None = None
        self.steps_before: int | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Save now and then."""
        step = trainer.global_step
        if step % self.every_n_steps == 0 and step != self.saved_step:
            self._save(trainer)
            self.saved_step = step

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, with a note that this validation is due."""
        if trainer.state.fn == "fit":
            self._save(trainer, is_due=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember that it is made."""
        self.validated_step = trainer.global_step

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save; a run that is stopped skips the validation of its step, if there is one.

        Raises:
            BrokenRunError: it can't be saved, on all ranks.
        """
        stopped = any(isinstance(c, StopOnRequest) and c.reason for c in _callbacks(trainer))
        step, steps = trainer.global_step, trainer.max_steps
        self.ended_at = None if stopped else steps
        is_due = stopped and step != self.validated_step
        self._save(
            trainer, is_due=is_due and (step == steps or not step % trainer.val_check_interval)
        )
        path = self._path(trainer)
        if reason := failure(trainer, path):
            raise BrokenRunError(
                f"can't save {path} of step {step} ({reason}): an earlier one is kept; make room "
                "and continue the run from there"
            )

    def _save(self, trainer: L.Trainer, *, is_due: bool = False) -> None:
        self.is_due = is_due
        path = self._path(trainer)
        CheckpointFiles.of(trainer).keep[path] = self.keep
        trainer.save_checkpoint(path)
        self.is_due = False

    def _path(self, trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning doesn't keep, or would guess."""
        file = _metrics_file(trainer)
        if file is not None:
            file.sync()
        assert isinstance(pl_module, TokenModule)
        checkpoint["resume"] = {
            "is_due": self.is_due,
            "ended_at": self.ended_at,
            "stopping": stopping_settings(_callbacks(trainer)),
            "max_steps": pl_module.total_steps,
            "metrics_lines": 0 if file is None else file.lines,
            "metrics": {k: v for k, v in trainer.callback_metrics.items() if k not in AMBIGUOUS},
            "unsaved": unsaved_of_callbacks(trainer),
            "optimizer_defaults": Hyperparameters.defaults_of(trainer),
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on where the checkpoint was.

        Raises:
            UserError: one that can't be gone on from.
        """
        if trainer.state.fn != "fit":
            return
        state, step = checkpoint.get("resume"), checkpoint["global_step"]
        if state is None:
            raise UserError(
                f"the last checkpoint of {trainer.default_root_dir} was saved by a version that "
                "couldn't resume: start a new run"
            )
        if step > trainer.max_steps:
            raise UserError(
                f"the checkpoint is of step {step}, so trainer.max_steps can't be "
                f"{trainer.max_steps}: raise it"
            )
        steps, stopping = trainer.max_steps, stopping_settings(_callbacks(trainer))
        has_ended = state["ended_at"] is not None and steps <= state["ended_at"]
        has_ended &= state.get("stopping", stopping) == stopping  # or it may stop later now
        if file := _metrics_file(trainer):
            file.cut(state["metrics_lines"])
        self.resumed = Position.take(
            trainer,
            step,
            is_due=state["is_due"],
            has_ended=has_ended,
        )
        checkpoint.pop("loops")  # or Lightning would guess where it is
        self.saved_step = 0 if state["is_due"] else step
        self.metrics = state["metrics"]
        self.steps_before = state.get("max_steps")
        self.hyperparameters = Hyperparameters(
            state["optimizer_defaults"], checkpoint["optimizer_states"]
        )
        self.hyperparameters.see(trainer)  # FSDP has its optimizers already
        follow_callbacks(trainer, pl_module, checkpoint)
        if state["ended_at"] is not None and not has_ended:
            forget_end(_callbacks(trainer), checkpoint["callbacks"])
        run = Run(Path(trainer.default_root_dir))
        if trainer.is_global_zero:
            run.note_step(step)
        log(f"continuing {run.shown} from checkpoints/last.ckpt at step {step} of {steps}")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the optimizer as the config makes it, before the checkpoint's state comes in."""
        overwrite_lost_files(trainer)
        if self.hyperparameters is not None:
            self.hyperparameters.see(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Bring back the latest values, which callbacks may watch, and follow the config."""
        trainer.callback_metrics.update(
            {name: value.to(pl_module.device) for name, value in self.metrics.items()}
        )
        if self.hyperparameters is not None:
            assert isinstance(pl_module, TokenModule)
            self.hyperparameters.follow_config(trainer, pl_module, self.steps_before)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make the validation that is due."""
        if self.resumed is not None:
            self.resumed.complete(trainer)
            self.resumed = None


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    return trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]


def _metrics_file(trainer: L.Trainer) -> MetricsFile | None:
    return next((file for file in trainer.loggers if isinstance(file, MetricsFile)), None)
