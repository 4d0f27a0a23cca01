"""Training speed in real tokens, and how few positions are padding."""

import time
from typing import Any

import lightning as L
import torch
from torch import Tensor

from everytoken.batch import Batch
from everytoken.data.datamodule import TokenDataModule
from everytoken.data.sampler import GlobalBatches
from everytoken.runtime.data_ranks import data_ranks
from everytoken.training.contract import computes_on_padding
from everytoken.training.module import TokenModule, is_logged_step


class Throughput(L.Callback):
    """Measures training speed in real tokens, over all ranks, and how few positions are padding.

    Logs `throughput/real_tokens_per_second` and `throughput/fill` since the last logged step, and
    how far training is: `real_tokens`, all that were trained on, and `epoch`, passes over the
    training split. Time for validation doesn't count. A resumed run goes on counting where its
    checkpoint was.
    """

    def __init__(self) -> None:
        self.real, self.computed, self.seconds = 0, 0, 0.0  # this rank, since the last logged step
        self.total_real, self.total_computed, self.total_seconds = 0, 0, 0.0  # all ranks
        self.resumed_at: float | None = None  # None: the clock stands still
        self.fit_seconds = 0.0
        """Of training and validation, all attempts of a resumed run together; lost work aside."""
        self.fit_started: float | None = None
        self.stream: GlobalBatches | None = None  # None: data that is not dealt out by ours

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See which data is trained on."""
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        self.stream = data.train_steps() if isinstance(data, TokenDataModule) else None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.resumed_at = self.fit_started = time.perf_counter()

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
        on_padding = computes_on_padding(pl_module.model)
        self.real += sum(b.real_count for b in batch)
        self.computed += sum(b.padded_count if on_padding else b.unpadded_count for b in batch)
        pl_module.log_dict(self._epoch(trainer))  # always: callbacks name files by it
        if is_logged_step(trainer):
            real, computed, seconds = self._settle(trainer, pl_module)
            pl_module.log_dict(
                {
                    "throughput/real_tokens_per_second": real / seconds,
                    "throughput/fill": real / computed,
                    "real_tokens": torch.tensor(self.total_real, dtype=torch.float64),
                }
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the steps after the last logged one."""
        self._settle(trainer, pl_module)
        self.fit_seconds += self._since_start(time.perf_counter())
        self.fit_started = None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._stop(time.perf_counter())

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell how many tokens were trained on so far: validation has the same axes as training."""
        self._log_total(trainer, pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same."""
        self._log_total(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start it again."""
        self.resumed_at = time.perf_counter()

    def _log_total(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        since = torch.tensor(self.real, device=module.device)
        counted = trainer.strategy.reduce(since, data_ranks(trainer).group, reduce_op="sum")
        total = self.total_real + int(counted)
        tokens = torch.tensor(total, dtype=torch.float64)
        module.log_dict({"real_tokens": tokens, **self._epoch(trainer)})

    def _epoch(self, trainer: L.Trainer) -> dict[str, Tensor]:
        if self.stream is None:
            return {}
        epochs = self.stream.epochs_after(trainer.global_step)
        return {"epoch": torch.tensor(epochs, dtype=torch.float64)}

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what was counted; of all ranks, since another number of them may go on."""
        real, computed = self._of_all_ranks(trainer, pl_module)
        now = time.perf_counter()
        running = 0.0 if self.resumed_at is None else now - self.resumed_at
        checkpoint["throughput"] = {
            "fit_seconds": self.fit_seconds + self._since_start(now),
            "since_logged": (real, computed, self.seconds + running),
            "total": (self.total_real, self.total_computed, self.total_seconds),
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on counting; what wasn't logged yet is given to the first rank."""
        if trainer.state.fn != "fit":
            return
        counted = checkpoint["throughput"]
        self.fit_seconds = counted["fit_seconds"]
        real, computed, self.seconds = counted["since_logged"]
        is_first = data_ranks(trainer).rank == 0
        self.real, self.computed = (real, computed) if is_first else (0, 0)
        self.total_real, self.total_computed, self.total_seconds = counted["total"]

    def _settle(self, trainer: L.Trainer, module: L.LightningModule) -> tuple[int, int, float]:
        """Move what was counted to the totals: real and computed tokens of all ranks, seconds."""
        real, computed = self._of_all_ranks(trainer, module)
        now = time.perf_counter()  # only now: the reduction waits for the device
        self._stop(now)
        seconds = self.seconds
        self.resumed_at = now
        self.total_real += real
        self.total_computed += computed
        self.total_seconds += seconds
        self.real, self.computed, self.seconds = 0, 0, 0.0
        return real, computed, seconds

    def _of_all_ranks(self, trainer: L.Trainer, module: L.LightningModule) -> tuple[int, int]:
        counts = torch.tensor([self.real, self.computed], device=module.device)
        group = data_ranks(trainer).group
        real, computed = trainer.strategy.reduce(counts, group, reduce_op="sum").tolist()
        return real, computed

    def _since_start(self, now: float) -> float:
        return 0.0 if self.fit_started is None else now - self.fit_started

    def _stop(self, now: float) -> None:
        if self.resumed_at is not None:
            self.seconds += now - self.resumed_at
            self.resumed_at = None
