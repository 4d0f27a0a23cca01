"""One training step and one evaluation, watched: by the real trainer, on any number of ranks."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from everytoken.batch import Batch, real_positions
from everytoken.commands.build import quiet_lightning
from everytoken.training.distributed import from_all_ranks, whole
from everytoken.training.module import TokenModule

Row = list[list[int]]
"""Real input ids of a sequence, its labels at the same places, and, if there are, its source ids,
its classes and the length of its prefix."""


@dataclass(frozen=True, eq=False)
class Observed:
    """What a step or an evaluation did, on all ranks together."""

    gradients: dict[str, Tensor]
    """By parameter, as the optimizer got it; {} for an evaluation."""
    values: dict[str, float]
    """What was logged."""
    rows: list[Row]
    """The sequences that were dealt out, in no particular order."""

    def save(self, file: Path) -> None:
        """Write it for another process."""
        torch.save(asdict(self), file)

    @classmethod
    def load(cls, file: Path) -> "Observed":
        """Read what `save` wrote."""
        return cls(**torch.load(file, weights_only=True))


class KeepGradients(Optimizer):
    """Keeps the gradient of each step and moves nothing."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 1.0})
        self.kept: dict[int, Tensor | None] = {}

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Keep the gradients, by identity of their parameter."""
        if closure is not None:
            closure()
        parameters = [p for group in self.param_groups for p in group["params"]]
        self.kept = {id(p): None if p.grad is None else whole(p.grad).clone() for p in parameters}
        for p in parameters:
            self.state[p]["steps"] = torch.ones(())  # what is sharded must keep something

    def gradients(self, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """Those of the last step, by name; zeros where none came."""
        return gradients_by_name(named, self.kept)


def gradients_by_name(
    named: Mapping[str, nn.Parameter], kept: Mapping[int, Tensor | None]
) -> dict[str, Tensor]:
    """What optimizers kept, by identity of a parameter; zeros where nothing came."""
    return {
        name: whole(torch.zeros_like(p)) if (own := kept.get(id(p))) is None else own
        for name, p in named.items()
    }


class KeepRows(L.Callback):
    """Keeps the sequences that a rank is given."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: list[Batch], batch_idx: int
    ) -> None:
        """Training: a list of micro-batches."""
        self.rows += [row for micro_batch in batch for row in rows_of(micro_batch)]

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Evaluation: one."""
        self.rows += rows_of(batch)


def rows_of(batch: Batch) -> list[Row]:
    """The sequences of a micro-batch without their padding; none of a filler."""
    if batch.is_filler:
        return []
    columns = [
        _real(batch.input_ids, batch.lengths, batch),
        _real(batch.labels, batch.lengths, batch),
    ]
    if batch.source_ids is not None and batch.source_lengths is not None:
        columns.append(_real(batch.source_ids, batch.source_lengths, batch))
    if batch.classes is not None:
        columns.append(batch.classes.tolist())
    if batch.prefix_lengths is not None:
        columns.append(batch.prefix_lengths[:, None].tolist())
    return [list(row) for row in zip(*columns, strict=True)]


def _real(ids: Tensor, lengths: Tensor, batch: Batch) -> list[list[int]]:
    is_real = real_positions(lengths, ids.shape[1], batch.padding_side)
    return [line[kept].tolist() for line, kept in zip(ids, is_real, strict=True)]


def observe_step(
    module: TokenModule,
    ranks: int,
    clip_norm: float | None = None,
    *,
    tensor_parallel: int = 1,
    **source: Any,
) -> Observed:
    """The first optimizer step.

    Args:
        module: in evaluation mode, so that there is no dropout; its weights don't change.
        ranks: of this job; this process is one of them.
        clip_norm: see `TokenModule`.
        tensor_parallel: so many of the ranks split matrices; the module stays split.
        source: `datamodule` or `train_dataloaders` of the trainer.
    """
    module.make_optimizer = KeepGradients
    module.make_scheduler = lambda optimizer, total_steps: LambdaLR(optimizer, lambda step: 1.0)
    module.clip_norm = clip_norm
    kept = KeepRows()
    trainer = _trainer(ranks, kept, tensor_parallel=tensor_parallel, limit_val_batches=0)
    trainer.fit(module, **source)
    optimizer = trainer.optimizers[0]
    assert isinstance(optimizer, KeepGradients)
    named = {name: p for name, p in module.model.named_parameters() if p.requires_grad}
    gradients = optimizer.gradients(named)
    values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
    return Observed(gradients, values, list(chain(*from_all_ranks(kept.rows))))


def observe_evaluation(
    module: TokenModule, ranks: int, split: str = "val", **source: Any
) -> Observed:
    """One evaluation as of the split "val" or "test"; `source` is `datamodule` or `dataloaders`."""
    kept = KeepRows()
    trainer = _trainer(ranks, kept)
    run = trainer.validate if split == "val" else trainer.test
    [found] = run(module, **source, verbose=False)
    values = {name.removeprefix(f"{split}/"): v for name, v in found.items() if name != "step"}
    return Observed({}, values, list(chain(*from_all_ranks(kept.rows))))


def loader(batches: Sequence[Any]) -> DataLoader[Any]:
    """A loader of ready batches: steps to train on, or micro-batches to evaluate."""
    return DataLoader(list(batches), batch_size=None)  # pyright: ignore[reportArgumentType]


def _trainer(
    ranks: int, *callbacks: L.Callback, tensor_parallel: int = 1, **options: Any
) -> L.Trainer:
    quiet_lightning()
    for message in (".*in eval mode at the start.*", ".*no `val_dataloader`.*"):  # on purpose here
        warnings.filterwarnings("ignore", message)
    strategy: str | Strategy = "ddp" if ranks > 1 else "auto"
    if tensor_parallel > 1:
        strategy = ModelParallelStrategy(ranks // tensor_parallel, tensor_parallel)
    return L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=strategy,
        max_steps=1,
        max_epochs=-1,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **options,
    )
