"""When checkpoints are saved."""

from pathlib import Path
from typing import Any

import lightning as L


class LastCheckpoint(L.Callback):
    """Keeps checkpoints/last.ckpt, also of the very last step and of a run that was stopped.

    Args:
        every_n_steps: optimizer steps between saves.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.saved_step = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Save now and then."""
        if trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save unless this step was saved."""
        if self.saved_step != trainer.global_step:
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        self.saved_step = trainer.global_step
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt")
