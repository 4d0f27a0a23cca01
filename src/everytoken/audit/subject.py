"""What is audited: the user's own data, model and step, on a few real examples, on the CPU."""

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property

import lightning as L
import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from everytoken.audit.observe import Observed, loader, observe_evaluation, observe_step
from everytoken.batch import IGNORE_INDEX, Batch, PaddingSide, real_positions, select
from everytoken.commands.adapting import adapt
from everytoken.commands.beginning import Beginning
from everytoken.commands.build import build_data, build_module
from everytoken.data.collate import Example, Ids
from everytoken.data.datamodule import MicroBatches, TokenDataModule
from everytoken.data.item import Item, Reference
from everytoken.data.order import WINDOW
from everytoken.data.sampler import StepPlan
from everytoken.decoding.generate import beginnings
from everytoken.run.directory import Run
from everytoken.runtime.console import log
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.answers import limit_for
from everytoken.training.module import TokenModule

EXAMPLES = 31
"""Examples of each split that are looked at: a prime, so that no number of ranks divides it."""

PIECES = 3
"""Micro-batches of each process, about, where the data module cuts."""

NOISE = 0.02
"""Standard deviation of what is added to the weights: parts that start at zero hide faults."""


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
        begun = None if tokenizer else Beginning.of(cfg, run)
        given = tokenizer or (begun and begun.tokenizer)
        self.tokenizer = tokenizer or build_data(cfg, ("train",), given).tokenizer
        self.data = few_data(cfg, self.tokenizer)
        self.module = build_module(cfg, self.tokenizer, total_steps=1).eval()
        if begun:
            log(begun.fill(self.module, self.tokenizer))
        adapt(cfg, self.module)
        self.model: nn.Module = self.module.model
        add_noise(self.model)
        self.sees_later = cfg.task.shape == "encoder"
        """True if the task allows a position to see later ones."""
        self.target_ids = len(self.tokenizer.labels) or len(self.tokenizer)
        """How many there are: classes, or tokens. A model may know more; no example has them."""
        self.precision: str = cfg.precision.mode
        self.has_own_loss = type(self.module).target_sums is not TokenModule.target_sums
        """True if training minimizes something else than the cross-entropy."""
        self.on_processes: dict[str, Observed] | Exception | None = None
        """See `processes.on_processes`."""

    @property
    def train(self) -> MicroBatches:
        """The training examples that are looked at."""
        return self.data.splits["train"]

    @cached_property
    def first_step(self) -> list[int]:
        """The examples of the first optimizer step."""
        return next(iter(self.data.train_steps().epoch(0))).tolist()

    @cached_property
    def room(self) -> int:
        """Positions by which `batch` may be padded further and is no wider than training's."""
        return max(1, min(_longest(self._chosen)) // 4)

    @cached_property
    def batch(self) -> Batch:
        """A micro-batch of a few examples, cut so that all have different lengths."""
        longest = [max(1, width - self.room) for width in _longest(self._chosen)]
        cut = [
            _shorten(example, [-(-width * (i + 1) // len(self._chosen)) for width in longest])
            for i, example in enumerate(self._chosen)
        ]
        return self.micro_batch(list(range(len(cut))), ready(self.train, cut))

    @cached_property
    def _chosen(self) -> list[Example]:
        by_length = np.argsort(self.train.lengths[:WINDOW], kind="stable")
        chosen = by_length[np.linspace(0, len(by_length) - 1, 4).astype(int)]
        return [self.train.example(i) for i in chosen.tolist()]

    def micro_batch(self, indices: list[int], examples: MicroBatches | None = None) -> Batch:
        """Training (or other) examples as the data module puts them together, or a filler."""
        return (self.train if examples is None else examples)[StepPlan(0, [indices])][0]

    def alone(self, indices: Iterable[int], examples: MicroBatches | None = None) -> list[Batch]:
        """Each example as a micro-batch of its own, without padding."""
        return [pad_anew(self.micro_batch([i], examples)) for i in indices]

    def logits(self, batch: Batch) -> Tensor:
        """(M, V) float64, with their gradient."""
        return self.module.head(self.module.hidden(batch)).double()

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        """Of a loss (), by parameter."""
        named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
        return dict(zip(named, found, strict=True))

    @cached_property
    def answered(self) -> MicroBatches:
        """Validation examples, a part of which the model gets right.

        An untrained model gets nothing right, and then no metric of hits would differ from a wrong
        one. So what it predicts is made the target of some, what it generates of others.
        """
        split = self.data.splits["val"]
        examples = [split.example(i) for i in range(len(split))]
        new: list[list[int]] = []
        starts: list[list[int]] = []
        if self.module.max_new_tokens is not None:
            whole = self.micro_batch(list(range(len(split))), split)
            prompts = beginnings(whole)
            limit = limit_for(whole, self.module.max_new_tokens)
            new = self.module.generate(prompts, limit)
            starts = select(prompts.input_ids, prompts.is_real)
        for i, example in enumerate(examples):
            if i % 3 == 0:
                examples[i] = _shorten(example, [-(-2 * len(example.input_ids) // 3), None])
            elif i % 3 == 1 and new:
                read = [IGNORE_INDEX] * (len(starts[i]) - 1)
                labels = np.array([*read, *new[i], self.tokenizer.special.eos])
                inputs = np.array([*starts[i], *new[i]])
                prefix = None if example.prefix_length is None else len(starts[i])
                examples[i] = Example(inputs, labels, example.source_ids, prefix_length=prefix)
            else:
                with torch.no_grad():
                    logits = self.logits(self.alone([i], split)[0])
                if example.classes is not None:
                    examples[i] = replace(example, classes=(logits[0] > 0).long().numpy())
                    continue
                best = logits[:, : self.target_ids].argmax(-1)
                labels = example.labels.copy()
                labels[labels != IGNORE_INDEX] = best.numpy()
                examples[i] = replace(example, labels=labels)
        return ready(split, examples)

    @cached_property
    def whole_step(self) -> Observed:
        """The first step as one micro-batch."""
        self.cut(self.first_step, "train", 1)
        return observe_step(self.module, 1, datamodule=self.data)

    @cached_property
    def dealt_evaluation(self) -> Observed:
        """The validation split as the data module deals it out to one process."""
        self.cut(range(len(self.data.splits["val"])), "val", PIECES)
        return observe_evaluation(self.module, 1, datamodule=self.data)

    @cached_property
    def whole_evaluation(self) -> Observed:
        """The answered examples as one micro-batch."""
        whole = self.micro_batch(list(range(len(self.answered))), self.answered)
        return observe_evaluation(self.module, 1, dataloaders=loader([whole]))

    def cut(self, indices: Sequence[int], split: str, pieces: int) -> None:
        """Make the data module cut examples of a split into about so many micro-batches."""
        lengths = self.data.splits[split].lengths[list(indices)]
        tokens = max(int(lengths.max()), -(-int(lengths.sum()) // pieces))
        self.data.batching = replace(self.data.batching, microbatch_tokens=tokens)

    def uneven_step(self) -> list[Batch]:
        """The first step in three micro-batches that weigh very differently."""
        return [self.micro_batch(part) for part in uneven(self.first_step)]

    def uneven_evaluation(self) -> list[Batch]:
        """The answered examples in three micro-batches that weigh very differently."""
        return [self.micro_batch(p, self.answered) for p in uneven(range(len(self.answered)))]


def uneven(indices: Sequence[int]) -> list[list[int]]:
    """One, two and all other examples: in even parts a mean of means would hide."""
    return [list(part) for part in (indices[:1], indices[1:3], indices[3:])]


def few_data(cfg: DictConfig, tokenizer: Tokenizer) -> TokenDataModule:
    """The user's data, cut down to its first examples."""
    cfg = cfg.copy()
    cfg.data.cache_dir = None  # what the code makes now is audited
    cfg.data.limit_examples = min(cfg.data.limit_examples or EXAMPLES, EXAMPLES)
    data = build_data(cfg, ("train", "val"), tokenizer)
    data.mixture = None  # of so few examples there are no shares
    for split in data.splits.values():
        split.items, split.lengths = split.items[:EXAMPLES], split.lengths[:EXAMPLES]
    return data


@torch.no_grad()
def add_noise(model: nn.Module) -> None:
    """Move all weights a little, always alike."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += NOISE * torch.randn(parameter.shape, generator=generator)


def ready(like: MicroBatches, examples: list[Example]) -> MicroBatches:
    """The same kind of dataset with these examples, of which no objective makes others."""
    made = copy(like)
    made.items = [Item(e.input_ids, reference=Reference.of(e)) for e in examples]
    made.example = lambda index, epoch=0: examples[index]
    return made


def _longest(examples: list[Example]) -> list[int]:
    """Of the inputs and, if there are any, of the sources."""
    inputs = [len(example.input_ids) for example in examples]
    sources = [len(e.source_ids) for e in examples if e.source_ids is not None]
    return [max(inputs), max(sources)] if sources else [max(inputs)]


def _shorten(example: Example, lengths: Sequence[int | None]) -> Example:
    """The first tokens of inputs (with a target among them) and of sources."""
    kept, labels = lengths[0], example.labels[: lengths[0]].copy()
    if not (labels != IGNORE_INDEX).any():
        targets = example.labels[example.labels != IGNORE_INDEX]  # which may be classes
        labels[-1] = targets[0] if len(targets) else example.input_ids[0]
    source: Ids | None = example.source_ids
    if source is not None:
        source = source[: lengths[1]]
    prefix = example.prefix_length
    return replace(
        example,
        input_ids=example.input_ids[:kept],
        labels=labels,
        source_ids=source,
        prefix_length=None if prefix is None else min(prefix, len(labels)),
    )


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
