"""Lightning callbacks: throughput, checkpoint at the end, a clean stop, predictions to look at."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.table import Table
from rich.text import Text

from everytoken.batch import Batch
from everytoken.console import say
from everytoken.data import TokenDataModule
from everytoken.module import Prediction, TokenModule, is_logged_step
from everytoken.tokenizer import Tokenizer


class Throughput(L.Callback):
    """Measures training speed in real tokens, over all ranks, and how few positions are padding.

    Logs `throughput/real_tokens_per_second` and `throughput/fill` since the last logged step, and
    `real_tokens`, all that were trained on. Time for validation doesn't count.
    """

    def __init__(self) -> None:
        self.real, self.computed, self.seconds = 0, 0, 0.0  # this rank, since the last logged step
        self.total_real, self.total_computed, self.total_seconds = 0, 0, 0.0  # all ranks
        self.resumed_at = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.resumed_at = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: list[Batch],
        batch_idx: int,
    ) -> None:
        """Count a step; at a logged one, log."""
        assert isinstance(pl_module, TokenModule)
        on_padding = getattr(pl_module.model, "computes_on_padding", True)
        self.real += sum(b.real_count for b in batch)
        self.computed += sum(b.padded_count if on_padding else b.unpadded_count for b in batch)
        if is_logged_step(trainer):
            real, computed, seconds = self._settle(trainer, pl_module)
            pl_module.log_dict(
                {
                    "throughput/real_tokens_per_second": real / seconds,
                    "throughput/fill": real / computed,
                    "real_tokens": float(self.total_real),
                }
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the steps after the last logged one."""
        self._settle(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self.seconds += time.perf_counter() - self.resumed_at

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start it again."""
        self.resumed_at = time.perf_counter()

    def _settle(self, trainer: L.Trainer, module: L.LightningModule) -> tuple[int, int, float]:
        """Move what was counted to the totals: real and computed tokens of all ranks, seconds."""
        counts = torch.tensor([self.real, self.computed], device=module.device)
        real, computed = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        now = time.perf_counter()  # only now: the reduction waits for the device
        seconds = self.seconds + now - self.resumed_at
        self.resumed_at = now
        self.total_real += real
        self.total_computed += computed
        self.total_seconds += seconds
        self.real, self.computed, self.seconds = 0, 0, 0.0
        return real, computed, seconds


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


class ShowPredictions(L.Callback):
    """Prints a few examples after each validation: source, target and prediction.

    Args:
        rows: how many.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the table."""
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        assert isinstance(pl_module, TokenModule)
        assert isinstance(data, TokenDataModule)
        kept = pl_module.predictions  # sorted by length: short ones are to be seen too
        chosen = [kept[i * len(kept) // self.rows] for i in range(min(self.rows, len(kept)))]
        say(predictions_table(chosen, data.tokenizer))


def predictions_table(predictions: list[Prediction], tokenizer: Tokenizer) -> Table:
    """Source, target and prediction side by side; a prediction is green where it is right."""
    table = Table("source", "target", "prediction", show_edge=False, pad_edge=False)
    for example in predictions:
        source, target, prediction = (
            _shorten(tokenizer.show(ids).replace("\n", "⏎")) for ids in example
        )
        colour = "green" if example.prediction == example.target else "red"
        table.add_row(Text(source), Text(target), Text(prediction, style=colour))
    return table


def _shorten(text: str, longest: int = 60) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
