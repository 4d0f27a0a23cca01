"""What is audited: the user's own data, model and step, on a few real examples, on the CPU."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property

import lightning as L
import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from everytoken.audit.observe import Observed, observe_evaluation, observe_step
from everytoken.batch import IGNORE_INDEX, Batch, PaddingSide, real_positions
from everytoken.build import build_data, build_module
from everytoken.data import MicroBatches, TokenDataModule
from everytoken.runs import Run
from everytoken.sampler import StepPlan
from everytoken.tokenizer import Tokenizer

EXAMPLES = 31
"""Examples of each split that are looked at: a prime, so that no number of ranks divides it."""


PAD_TO_MULTIPLE_OF = 13
"""Positions, see data.pad_to_multiple_of."""


class Subject:
    """The user's parts, and what several checks need to know of them.

    The model is in evaluation mode throughout (no dropout) and its weights never change.

    Args:
        run: holds the config.
        tokenizer: a trained one, to use instead of training it.
    """

    def __init__(self, run: Run, tokenizer: Tokenizer | None = None) -> None:
        self.run = run
        cfg = run.config
        L.seed_everything(cfg.seed, workers=True, verbose=False)
        self.tokenizer = tokenizer or build_data(cfg, ("train",)).tokenizer
        self.data = few_data(cfg, self.tokenizer)
        self.module = build_module(cfg, self.tokenizer, total_steps=1).eval()
        self.model: nn.Module = self.module.model
        self.sees_later = cfg.task.shape == "encoder"
        """True if the task allows a position to see later ones."""
        self.precision: str = cfg.precision.mode
        self.on_processes: dict[str, Observed] = {}
        """See `processes.on_processes`."""

    @property
    def train(self) -> MicroBatches:
        """The training examples that are looked at."""
        return self.data.splits["train"]

    @cached_property
    def first_step(self) -> list[int]:
        """The examples of the first optimizer step."""
        return self.data.train_steps().epoch(0)[0].tolist()

    @cached_property
    def batch(self) -> Batch:
        """A micro-batch of a few examples of different lengths."""
        by_length = np.argsort(self.train.lengths, kind="stable")
        chosen = by_length[np.linspace(0, len(by_length) - 1, 4).astype(int)]
        return self.micro_batch(np.unique(chosen).tolist())

    def micro_batch(self, indices: list[int], split: str = "train") -> Batch:
        """Examples as the user's data module puts them together; a filler if there are none."""
        return self.data.splits[split][StepPlan(0, [indices])][0]

    def alone(self, indices: Iterable[int], split: str = "train") -> list[Batch]:
        """Each example as a micro-batch of its own, without padding."""
        return [pad_anew(self.micro_batch([i], split)) for i in indices]

    def logits(self, batch: Batch) -> Tensor:
        """(M, V) float64, with their gradient."""
        return self.module.head(self.module.hidden(batch)).double()

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        """Of a loss (), by parameter."""
        named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
        return dict(zip(named, found, strict=True))

    @cached_property
    def whole_step(self) -> Observed:
        """The first step as one micro-batch."""
        self.cut(self.first_step, "train", 1)
        return observe_step(self.module, 1, datamodule=self.data)

    @cached_property
    def whole_evaluation(self) -> Observed:
        """The validation split as one micro-batch."""
        self.cut(range(len(self.data.splits["val"])), "val", 1)
        return observe_evaluation(self.module, 1, datamodule=self.data)

    def cut(self, indices: Sequence[int], split: str, pieces: int) -> None:
        """Make the data module cut examples of a split into about so many micro-batches."""
        lengths = self.data.splits[split].lengths[list(indices)]
        tokens = max(int(lengths.max()), -(-int(lengths.sum()) // pieces))
        self.data.batching = replace(self.data.batching, microbatch_tokens=tokens)

    def uneven_step(self) -> list[Batch]:
        """The first step in three micro-batches that weigh very differently."""
        return [self.micro_batch(part) for part in uneven(self.first_step)]

    def uneven_evaluation(self) -> list[Batch]:
        """The validation split in three micro-batches that weigh very differently."""
        indices = range(len(self.data.splits["val"]))
        return [self.micro_batch(part, "val") for part in uneven(indices)]


def uneven(indices: Sequence[int]) -> list[list[int]]:
    """One, two and all other examples: in even parts a mean of means would hide."""
    return [list(part) for part in (indices[:1], indices[1:3], indices[3:])]


def few_data(cfg: DictConfig, tokenizer: Tokenizer) -> TokenDataModule:
    """The user's data, cut down to its first examples."""
    cfg = cfg.copy()
    cfg.data.limit_examples = min(cfg.data.limit_examples or EXAMPLES, EXAMPLES)
    # Sequences may all have one length: without padding, faults that it brings would not show.
    cfg.data.pad_to_multiple_of = PAD_TO_MULTIPLE_OF
    data = build_data(cfg, ("train", "val"), tokenizer)
    for split in data.splits.values():
        split.items, split.lengths = split.items[:EXAMPLES], split.lengths[:EXAMPLES]
    return data


def pad_anew(
    batch: Batch, *, extra: int = 0, side: PaddingSide | None = None, garbage: Tensor | None = None
) -> Batch:
    """The same sequences with other padding.

    Args:
        batch: stays as it is.
        extra: positions more than the longest sequence needs, of inputs and sources.
        side: where the padding stands; None for the batch's own.
        garbage: (n,) ids to put into the padding, over and over; None for the batch's first id.
    """
    side = side or batch.padding_side
    filling = batch.input_ids.flatten()[:1] if garbage is None else garbage

    def moved(ids: Tensor, lengths: Tensor, fill: Tensor) -> Tensor:
        width = int(lengths.max()) + extra
        out = fill.repeat(len(ids) * width)[: len(ids) * width].reshape(len(ids), width)
        old = real_positions(lengths, ids.shape[1], batch.padding_side)
        out[real_positions(lengths, width, side)] = ids[old]
        return out

    source_ids = None
    if batch.source_ids is not None and batch.source_lengths is not None:
        source_ids = moved(batch.source_ids, batch.source_lengths, filling)
    return replace(
        batch,
        input_ids=moved(batch.input_ids, batch.lengths, filling),
        labels=moved(batch.labels, batch.lengths, torch.tensor([IGNORE_INDEX])),
        source_ids=source_ids,
        padding_side=side,
    )
