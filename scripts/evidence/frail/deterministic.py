"""What a GPU's kernels need to add up in the same order each time."""

import lightning as L
import torch


class Deterministic(L.Callback):
    """Takes kernels without atomic additions, on a GPU: on a CPU a run is the same as it is."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Where there is no such kernel torch warns, and what is compared tells."""
        if pl_module.device.type == "cuda":
            torch.use_deterministic_algorithms(True, warn_only=True)
