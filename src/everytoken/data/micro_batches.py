"""Items of a split → `Batch`, by plan: what a data module's loaders read."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from everytoken.batch import IGNORE_INDEX, Batch, PaddingSide, References
from everytoken.data.balance import Work
from everytoken.data.cache.shards import ShardStore
from everytoken.data.cache.store import ItemList, ItemStore
from everytoken.data.collate import Example, collate, filler
from everytoken.data.cut import Topology, cut
from everytoken.data.epoch import BatchBudget
from everytoken.data.item import Item
from everytoken.data.objective import ExampleKey, Objective
from everytoken.data.order import Indices
from everytoken.data.sampler import StepPlan
from everytoken.errors import UserError
from everytoken.runtime.console import warn


@dataclass(frozen=True)
class Batching:
    """How examples become batches."""

    budget: BatchBudget
    """Size of a global batch."""
    microbatch_tokens: int = sys.maxsize
    """Most real tokens in one forward and backward of one device."""
    padding_side: PaddingSide = "right"
    pad_to_multiple_of: int = 1
    """Widths are rounded up to a multiple of this many positions."""
    work: Work | None = None
    """What an example costs a device, so that all have as much to do; None for its tokens."""


class MicroBatches(Dataset[list[Batch]]):
    """Items of one split, read by plan: `dataset[plan]` is one `Batch` per micro-batch."""

    def __init__(
        self,
        items: ItemStore | ItemList,
        objective: Objective,
        batching: Batching,
        pad_id: int,
        seed: int,
    ) -> None:
        self.items: Sequence[Item] = items
        self.objective = objective
        self.batching = batching
        self.pad_id = pad_id
        self.seed = seed
        self._lengths = None if isinstance(items, ItemStore) else items.lengths
        answers = [reference.answer_tokens for reference in items.references()]
        self.longest_answer = max(answers, default=None)
        """Tokens, the end included, that generation needs at most; None of a training split."""

    @property
    def lengths(self) -> Indices:
        """(items,) int64: real tokens of each item's example."""
        if self._lengths is not None:
            return self._lengths
        # A store's own aren't kept here: loader workers that are spawned would get a copy.
        assert isinstance(self.items, ItemStore)
        return self.items.lengths

    @lengths.setter
    def lengths(self, lengths: Indices) -> None:
        self._lengths = lengths

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, plan: StepPlan) -> list[Batch]:
        if isinstance(self.items, ShardStore):
            self.items.expect(self.items.shards_of(plan.indices()))
        return [self._batch(indices, plan.epoch) for indices in plan.micro_batches]

    def example(self, index: int, epoch: int = 0) -> Example:
        """An example as it is drawn in an epoch."""
        return self.objective.example(self.items[index], ExampleKey(self.seed, epoch, index))

    def records(self) -> list[int]:
        """Which example of the corpus each item is of; of a held-out split."""
        return [item.reference.record for item in self.items if item.reference]

    def has_target(self, index: int) -> bool:
        """True if there is something to predict in an example."""
        return bool((self.example(index).labels != IGNORE_INDEX).any())

    def _batch(self, indices: list[int], epoch: int) -> Batch:
        if not indices:
            return filler(self.pad_id, with_source=self.objective.has_source)
        return collate(
            [self.example(i, epoch) for i in indices],
            self.pad_id,
            padding_side=self.batching.padding_side,
            pad_to_multiple_of=self.batching.pad_to_multiple_of,
            indices=indices,
            references=self._references(indices),
        )

    def _references(self, indices: list[int]) -> References | None:
        if self.longest_answer is None:
            return None
        found = [reference for i in indices if (reference := self.items[i].reference)]
        return References(
            texts=[reference.text for reference in found],
            prompts=[reference.prompt_tokens for reference in found],
            byte_count=sum(reference.byte_count for reference in found),
            longest=self.longest_answer,
        )


class EvaluationBatches(Dataset[Batch]):
    """The same, one `Batch` at a time, each example once and always in the same form."""

    def __init__(self, examples: MicroBatches, topology: Topology) -> None:
        self.examples = examples
        self.micro_batches = cut(np.arange(len(examples)), examples.lengths, topology)

    def __len__(self) -> int:
        return len(self.micro_batches)

    def __getitem__(self, index: int) -> Batch:
        return self.examples[StepPlan(0, [self.micro_batches[index]])][0]


def check_targets(dataset: MicroBatches, split: str) -> None:
    """Look at examples spread over a split: those without a target token teach and count nothing.

    Raises:
        UserError: none of them has one.
    """
    checked = np.unique(np.linspace(0, len(dataset) - 1, 2000, dtype=np.int64)).tolist()
    empty = sum(not dataset.has_target(i) for i in checked)
    objective = f"task.objective ({type(dataset.objective).__name__})"
    if empty == len(checked):
        raise UserError(
            f"no {split} example has a target token (looked at {len(checked)}): there is nothing "
            f"to learn; see what {objective} ignores or cuts off"
        )
    if empty:
        warn(
            f"{empty} of {len(checked)} {split} examples have no target token: they teach "
            f"nothing; see what {objective} ignores or cuts off"
        )
