"""What a run makes of its machine: the share of the measured peak, and memory."""

import os
from pathlib import Path
from typing import Any

import lightning as L
import torch

from everytoken.batch import Batch
from everytoken.callbacks.flops import batch_flops, measured_peak
from everytoken.model.precision import compute_dtype
from everytoken.runtime.data_ranks import data_ranks
from everytoken.training.module import TokenModule, is_logged_step

GIB = 2**30
STATM = Path("/proc/self/statm")


class MachineUse(L.Callback):
    """Logs `throughput/share_of_peak` and memory at logged steps.

    `throughput/share_of_peak` is `throughput/real_tokens_per_second` times the model's FLOPs of a
    real token (see `flops.py`), divided by the FLOP/s of a plain matrix product in the precision
    of training, measured when training starts and added up over all ranks.

    `memory/resident_gib` is what the process of rank 0 occupies; on a CUDA device
    `memory/allocated_gib` is the most that its tensors ever took there.

    Args:
        peak_seconds: how long the peak is measured.
    """

    def __init__(self, peak_seconds: float) -> None:
        self.peak_seconds = peak_seconds
        self.peak = 0.0
        """FLOP/s, all ranks."""
        self.flops = torch.zeros((), dtype=torch.float64)  # this rank, since the last logged step
        self.real = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the peak, on all ranks at once: they may share cores and memory."""
        with trainer.precision_plugin.forward_context():
            dtype = compute_dtype(torch.empty(0, device=pl_module.device))
        own = torch.tensor(measured_peak(pl_module.device, dtype, self.peak_seconds))
        self.peak = float(trainer.strategy.reduce(own.to(pl_module.device), reduce_op="sum"))

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
        for one in batch:
            self.flops = self.flops.to(pl_module.device) + batch_flops(pl_module.model, one)
        self.real += sum(b.real_count for b in batch)
        if not is_logged_step(trainer):
            return
        counts = torch.stack((self.flops, self.flops.new_tensor(self.real)))
        group = data_ranks(trainer).group
        flops, real = trainer.strategy.reduce(counts, group, reduce_op="sum").tolist()
        self.flops, self.real = torch.zeros_like(self.flops), 0
        speed = float(trainer.callback_metrics["throughput/real_tokens_per_second"])
        values = {"throughput/share_of_peak": speed * flops / max(real, 1) / self.peak}
        if (resident := resident_bytes()) is not None:
            values["memory/resident_gib"] = resident / GIB
        if pl_module.device.type == "cuda":
            values["memory/allocated_gib"] = torch.cuda.max_memory_allocated() / GIB
        pl_module.log_dict(values)


def resident_bytes() -> int | None:
    """Memory that this process occupies; None on a system that doesn't tell it in /proc."""
    try:
        pages = int(STATM.read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
