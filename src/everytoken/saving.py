"""When checkpoints are saved."""

from pathlib import Path
from typing import Any

import lightning as L

from everytoken.checkpoint import CheckpointFiles, failure
from everytoken.errors import UserError


class LastCheckpoint(L.Callback):
    """Keeps checkpoints/last.ckpt, also of the very last step and of a run that was stopped.

    Args:
        every_n_steps: optimizer steps between saves.
        keep: files, at least 1: last.ckpt and its predecessors, last-1.ckpt and so on.
    """

    def __init__(self, every_n_steps: int, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1 file, got {keep}")
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.saved_step = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Save now and then."""
        if trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save unless this step was saved.

        Raises:
            UserError: it can't be saved, on all ranks.
        """
        if self.saved_step != trainer.global_step:
            self._save(trainer)
        path = self._path(trainer)
        if reason := failure(trainer, path):
            raise UserError(
                f"can't save {path} of step {trainer.global_step} ({reason}): an earlier one is "
                "kept; make room and continue the run from there"
            )

    def _save(self, trainer: L.Trainer) -> None:
        self.saved_step = trainer.global_step
        path = self._path(trainer)
        CheckpointFiles.of(trainer).keep[path] = self.keep
        trainer.save_checkpoint(path)

    def _path(self, trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
