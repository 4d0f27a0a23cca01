"""A job that `test_sharding` runs as three ranks."""

from datetime import timedelta
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from everytoken.commands.build import quiet_lightning
from everytoken.runtime.world import global_rank
from support.fitting import make_module
from support.helpers import make_batch


class KeepGradients(L.Callback):
    """All gradients of each step, as one vector, and how often backward went."""

    def __init__(self) -> None:
        self.kept: list[torch.Tensor] = []
        self.backwards = 0

    def on_before_backward(self, *_: object) -> None:
        self.backwards += 1

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        gradients = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.kept.append(torch.cat(gradients))


def the_same_step_three_times(folder: str) -> None:
    """The same batch and the same weights in each step."""
    quiet_lightning()
    module, gradients = make_module(), KeepGradients()
    reads = torch.zeros(())

    def count(*_: object) -> None:
        reads.add_(1 + global_rank())

    module.model.register_buffer("reads", reads)
    module.model.register_forward_pre_hook(count)
    module.make_optimizer = lambda groups: torch.optim.SGD(groups, lr=0.0)
    step = [make_batch([3, 5], seed=global_rank()), make_batch([9], seed=10 + global_rank())]
    strategy = DDPStrategy(gradient_as_bucket_view=True, timeout=timedelta(seconds=60))
    trainer = L.Trainer(
        accelerator="cpu",
        devices=3,
        strategy=strategy,
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[gradients],
        use_distributed_sampler=False,
    )
    batches: list[list[object]] = [[*step] for _ in range(3)]
    trainer.fit(module, DataLoader(batches, batch_size=None))  # pyright: ignore[reportArgumentType]
    found = {"gradients": gradients.kept, "backwards": gradients.backwards, "reads": reads}
    torch.save(found, Path(folder) / f"{global_rank()}.pt")
