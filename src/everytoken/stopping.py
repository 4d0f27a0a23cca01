"""A run that is asked to stop: finish the step, save, leave with a code that says why."""

import os
import signal
from typing import Any

import lightning as L
import torch

from everytoken.batch import Batch
from everytoken.console import say
from everytoken.module import is_logged_step


class StopOnInterrupt(L.Callback):
    """Ctrl-C or SIGTERM: finish the step, save, stop. Twice: leave at once.

    With several ranks all must stop at the same step, so they agree on it at logged steps.
    """

    HANDLED = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signalled = 0
        """The signal's number, or 0."""
        self.process = 0
        self.handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals over, from Lightning, which would end without a checkpoint."""
        self.process = os.getpid()
        self.handlers = {number: signal.signal(number, self._note) for number in self.HANDLED}

    def _note(self, number: int, frame: object) -> None:
        if os.getpid() != self.process:
            return  # a loader process, which inherited this handler
        if number == signal.SIGINT:
            say("\nstopping after this step (Ctrl-C again to leave at once)")
        self.signalled = number
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: list[Batch],
        batch_idx: int,
    ) -> None:
        """Stop if all ranks know of it."""
        agreed = self.signalled
        if trainer.world_size > 1:
            if not is_logged_step(trainer):
                return
            mine = torch.tensor(agreed, device=pl_module.device)
            agreed = int(trainer.strategy.reduce(mine, reduce_op="max"))
        if agreed:  # not `signalled`: a signal that came meanwhile counts at the next agreement
            self.signalled = agreed
            trainer.should_stop = True
            trainer.limit_val_batches = 0  # or Lightning would validate before it stops

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signals back."""
        self._give_back()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        self._give_back()
