"""The end of training: at the last step, or where the run is asked to stop.

Who is asked finishes the step, saves, and leaves with a code that says why. Ranks may hear of it at
different times, or only one of them. So they count in each step how many were asked, in the one
exchange that the step has anyway, and all stop after the same step.
"""

from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from everytoken.callbacks.lightning_internals import end_after_step, handle_no_signals
from everytoken.runtime.signals import chosen, stop_requests
from everytoken.training.module import TokenModule


class StopOnRequest(L.Callback):
    """Ends training after the last step, which is validated whatever the interval.

    Or after the step in which all ranks know that one of them was asked to stop: with one process
    that is the step in progress, with several it may be the one after. What saves checkpoints saves
    then, as at the end of training. In validation a run leaves at once: it was saved just before.
    """

    def __init__(self) -> None:
        self.reason = 0
        """The signal that ended training on all ranks, or 0."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From now on there is something to lose."""
        stop_requests.hold()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Vote."""
        assert isinstance(pl_module, TokenModule)
        if trainer.world_size > 1:
            pl_module.step.votes = stop_requests.votes()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Stop if any rank has voted for it, or if this was the last step."""
        assert isinstance(pl_module, TokenModule)
        counted = pl_module.step.vote_counts
        self.reason = chosen(stop_requests.votes() if counted is None else counted.read().tolist())
        if self.reason:
            trainer.limit_val_batches = 0  # or Lightning would validate before it stops
        if self.reason or trainer.global_step == trainer.max_steps:
            end_after_step(trainer)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave, now or at any time until it is over."""
        if trainer.state.fn == TrainerFn.FITTING:
            stop_requests.release()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Training goes on."""
        if trainer.state.fn == TrainerFn.FITTING:
            stop_requests.hold()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Everything is saved: who was asked after the last agreement leaves alone."""
        if not self.reason:
            stop_requests.release()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Nothing more will be saved."""
        stop_requests.is_held = False


def keep_signals(trainer: L.Trainer) -> L.Trainer:
    """The same trainer, which leaves signals alone.

    Lightning would answer SIGTERM by ending without a checkpoint, after an exchange with the other
    ranks inside of the signal handler, for which it also makes a broadcast in each step; and
    SIGUSR1 under SLURM by a checkpoint that the next run loads unasked (lightning#20347).
    """
    handle_no_signals(trainer)
    return trainer
