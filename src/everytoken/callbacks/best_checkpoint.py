"""The checkpoint that did best in validation."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from everytoken.callbacks.lightning_internals import expect_files
from everytoken.run.checkpoint_file import CheckpointFiles, failure, is_whole


class BestCheckpoint(ModelCheckpoint):
    """Keeps checkpoints/best.ckpt: of all validations the best, by one metric.

    One file of one name, since evaluation, generation and export look for it; to keep more, add a
    ModelCheckpoint with file names of its own. Which is best is not forgotten when the run
    directory has moved, and only what was really saved counts.

    Args:
        monitor: a metric that validation logs.
        mode: "min" or "max", whichever is better.
    """

    def __init__(self, monitor: str, mode: str) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be min or max, got {mode}")
        super().__init__(filename="best", monitor=monitor, mode=mode, enable_version_counter=False)
        expect_files(self)
        self.unsettled: tuple[L.Trainer, dict[str, Any]] | None = None
        """While it may turn out that the latest couldn't be saved: what was the best before."""

    @property
    def path(self) -> Path:
        """The file; known from the start of the fit on."""
        assert self.dirpath is not None
        return Path(self.dirpath) / f"best{self.FILE_EXTENSION}"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A resumed run whose best.ckpt is gone or damaged has no best yet."""
        super().on_train_start(trainer, pl_module)
        if self.best_model_path:
            whole = trainer.is_global_zero and is_whole(self.path)
            if not trainer.strategy.broadcast(whole):
                self.load_state_dict({"best_score": None})

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if it is the best; if it can't be saved, the one before is still the best."""
        before = self.state_dict()
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == TrainerFn.FITTING:
            self.unsettled = trainer, before
            if CheckpointFiles.of(trainer).saving is None:  # or it takes its time
                self._settle()

    def _settle(self) -> None:
        unsettled, self.unsettled = self.unsettled, None
        if unsettled is not None and failure(unsettled[0], self.path):
            self.load_state_dict(unsettled[1])

    def state_dict(self) -> dict[str, Any]:
        """The score of best.ckpt: a tensor, or None if there is no such file yet."""
        self._settle()
        return {"best_score": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the score of best.ckpt, wherever it lies now."""
        score, path = state_dict["best_score"], str(self.path)
        self.best_model_score = score
        self.best_k_models = {} if score is None else {path: score}
        self.best_model_path = self.kth_best_model_path = "" if score is None else path
