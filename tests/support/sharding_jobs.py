"""Jobs that tests of ranks which share work run as several."""

from datetime import timedelta
from errno import ENOSPC
from pathlib import Path
from unittest.mock import patch

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from everytoken.callbacks.averaging import ExponentialMovingAverage
from everytoken.commands.build import quiet_lightning
from everytoken.commands.strategies import Sharding
from everytoken.data.collate import filler
from everytoken.run.checkpoint_file import CheckpointFiles, failure
from everytoken.run.shard_writer import Writer
from everytoken.runtime.world import global_rank
from everytoken.training.double import Double
from everytoken.training.module import TokenModule
from support.fitting import make_module, make_own
from support.helpers import make_batch, make_model


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


class SaveOnTheWay(L.Callback):
    """After three steps in one file and in shards, after four on a disk that is full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failure: str | None = None

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        strategy, path = trainer.strategy, self.folder / "last.ckpt"
        if not isinstance(strategy, Sharding):
            return
        if trainer.global_step == 3:
            for strategy.in_shards, name in ((False, "whole.ckpt"), (True, "last.ckpt")):
                trainer.save_checkpoint(self.folder / name)
        if trainer.global_step == 4:
            assert failure(trainer, path) is None
            with patch.object(Writer, "finish", side_effect=OSError(ENOSPC, "disk full")):
                trainer.save_checkpoint(path)
                self.failure = failure(trainer, path)


def train_sharded(
    folder: str,
    ranks: int,
    resumed: str = "",
    out: str = "end.ckpt",
    tensor_parallel: int = 1,
    *,
    double: bool = False,
) -> None:
    """Five steps over the same batches, which no rank has to itself; or what is left of them.

    In float64 nothing is saved on the way.
    """
    quiet_lightning()
    readers = ranks // tensor_parallel
    home, name = Path(folder), resumed and str(Path(folder) / resumed)
    model = make_model("decoder")
    model.head.weight = model.embedding.weight
    model = model.double() if double else model
    module = make_own(
        TokenModule, model=model, optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2)
    )
    saves = SaveOnTheWay(home)
    patience = timedelta(seconds=60)
    strategy = Sharding(ranks, patience, tensor_parallel=tensor_parallel) if ranks > 1 else "auto"
    trainer = L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=strategy,
        max_steps=5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ExponentialMovingAverage(0.9), *([] if resumed or double else [saves])],
        plugins=[CheckpointFiles(), *([Double()] if double else [])],
        use_distributed_sampler=False,
    )
    examples = [make_batch([3, 5, 2]), make_batch([9, 4], seed=7), make_batch([6, 6], seed=8)]
    own = examples[global_rank() // tensor_parallel :: readers] or [filler(0, with_source=False)]
    own += [filler(0, with_source=False)] * (3 // readers + 3 % readers - len(own))
    batches: list[list[object]] = [[*own] for _ in range(9)]
    loader = DataLoader(batches, batch_size=None)  # pyright: ignore[reportArgumentType]
    trainer.fit(module, loader, ckpt_path=name or None, weights_only=True)
    if isinstance(trainer.strategy, Sharding):
        trainer.strategy.in_shards = not resumed
    trainer.save_checkpoint(home / out)
    CheckpointFiles.of(trainer).wait()
    (home / f"failure-{global_rank()}").write_text(str(saves.failure))


def train_split(folder: str, other: str) -> None:
    """The same on four ranks, of which two split the matrices; and on from what others saved."""
    train_sharded(folder, 4, out="double.ckpt", tensor_parallel=2, double=True)
    train_sharded(folder, 4, tensor_parallel=2)
    for resumed, out in (
        (f"{folder}/last.ckpt", "again.ckpt"),
        (f"{other}/last.ckpt", "from-shards.ckpt"),
        (f"{other}/whole.ckpt", "from-file.ckpt"),
    ):
        train_sharded(folder, 4, resumed, out, tensor_parallel=2)
