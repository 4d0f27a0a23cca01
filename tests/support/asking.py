"""A callback for whole runs that asks them to stop."""

import os
import signal
import time
from typing import Any

import lightning as L

from everytoken.runtime.world import global_rank


class Ask(L.Callback):
    """Sends a signal from one rank, once, in some phase of its run.

    Args:
        name: of the signal.
        rank: who sends it.
        to: "itself", or "launcher", the process that started the ranks.
        phase: "start-up", "training" (the second step), "validation" or "test".
    """

    def __init__(self, name: str, rank: int, to: str, phase: str) -> None:
        self.number = getattr(signal, name)
        self.rank = rank
        self.pid = os.getppid() if to == "launcher" else os.getpid()
        self.phase = phase
        if phase == "start-up":
            self._ask()

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Training: the steps go on until the signal arrives."""
        if self.phase == "training" and trainer.global_step == 1:
            self._ask()

    def on_validation_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Validation in training, which lasts until the signal arrives."""
        if self.phase == "validation" and trainer.global_step:
            self._ask()
            time.sleep(60)

    def on_test_batch_start(self, *args: Any) -> None:
        """The final test, likewise."""
        if self.phase == "test":
            self._ask()
            time.sleep(60)

    def _ask(self) -> None:
        if global_rank() == self.rank:
            os.kill(self.pid, self.number)
