"""Corpus → loaders of micro-batches, as a LightningDataModule. No tensor arithmetic here.

The way: source (texts by split) → tokenizer (trained on the training split) → objective (items)
→ sampler (which items make a step) → objective (examples) → collate (padding) → `Batch`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import lightning as L
import numpy as np
from torch.utils.data import DataLoader, Dataset

from everytoken.batch import IGNORE_INDEX, Batch, PaddingSide
from everytoken.collate import Example, collate, filler
from everytoken.console import say
from everytoken.errors import UserError
from everytoken.objective import ExampleKey, Item, Objective, ObjectiveFactory
from everytoken.sampler import BatchBudget, GlobalBatches, Indices, StepPlan, Topology, cut
from everytoken.tokenizer import Tokenizer

SPLITS = ("train", "val", "test")


class Source(Protocol):
    """A corpus of texts. This is what one's own data implements."""

    fields: tuple[str, ...]
    """Names of the texts of an example: ("source", "target") for pairs, ("text",) otherwise."""

    def examples(self, split: str) -> list[dict[str, str]]:
        """Texts by field, for "train", "val" or "test"."""
        ...


@dataclass(frozen=True)
class Batching:
    """How examples become batches."""

    budget: BatchBudget
    microbatch_tokens: int
    padding_side: PaddingSide
    pad_to_multiple_of: int


class MicroBatches(Dataset[list[Batch]]):
    """Items of one split, read by plan: `dataset[plan]` is one `Batch` per micro-batch."""

    def __init__(
        self,
        items: Sequence[Item],
        objective: Objective,
        batching: Batching,
        pad_id: int,
        seed: int,
    ) -> None:
        self.items = items
        self.objective = objective
        self.batching = batching
        self.pad_id = pad_id
        self.seed = seed
        self.lengths: Indices = np.array([objective.real_count(i) for i in items], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, plan: StepPlan) -> list[Batch]:
        return [self._batch(indices, plan.epoch) for indices in plan.micro_batches]

    def example(self, index: int, epoch: int = 0) -> Example:
        """An example as it is drawn in an epoch."""
        return self.objective.example(self.items[index], ExampleKey(self.seed, epoch, index))

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


class TokenDataModule(L.LightningDataModule):
    """Reads a corpus, tokenizes it and deals it out in micro-batches.

    Ready for use as soon as it is built: the size of the vocabulary is needed to build a model.

    Args:
        source: the corpus.
        fields: names of the texts that the objective needs of an example.
        make_objective: makes the task's objective, see `ObjectiveFactory`.
        train_tokenizer: makes a tokenizer from the texts of the training split.
        tokenizer: a trained tokenizer, to use instead.
        splits: the splits that are needed.
        limit_examples: use the first this many of each split only; None for all.
        batching: see `Batching`.
        num_workers: loader processes per rank; 0 loads in the training process.
        seed: seed of shuffling and of the objective's chance.
        epochs: passes over the training split; None for no end.

    Raises:
        UserError: a source that doesn't fit the task, an empty split, an example too long, no
            target token anywhere.
    """

    def __init__(
        self,
        *,
        source: Source,
        fields: Sequence[str],
        limit_examples: int | None,
        make_objective: ObjectiveFactory,
        train_tokenizer: Callable[[Iterable[str]], Tokenizer],
        tokenizer: Tokenizer | None,
        splits: Sequence[str],
        batching: Batching,
        num_workers: int,
        seed: int,
        epochs: int | None,
    ) -> None:
        super().__init__()
        records = {split: source.examples(split)[:limit_examples] for split in splits}
        for split, texts in records.items():
            if not texts:
                raise UserError(f"the {split} split is empty: give it examples (see data.source)")
            for i, text in enumerate(texts):
                if missing := [field for field in fields if field not in text]:
                    raise UserError(
                        f"{split} example {i} has {', '.join(text)} but the task needs "
                        f"{', '.join(missing)} too: choose another task or data"
                    )
        if tokenizer is None:
            tokenizer = train_tokenizer(t[field] for t in records["train"] for field in fields)
        self.tokenizer = tokenizer
        self.batching = batching
        self.num_workers = num_workers
        self.seed = seed
        self.epochs = epochs
        self.first_step = 0
        self.fields = fields
        self.objective = make_objective(special=tokenizer.special, vocabulary=len(tokenizer))
        self.splits = {split: self._tokenize(split, texts) for split, texts in records.items()}

    def _tokenize(self, split: str, records: list[dict[str, str]]) -> MicroBatches:
        columns = [
            self.tokenizer.encode([record[field] for record in records]) for field in self.fields
        ]
        items = [
            item
            for ids in zip(*columns, strict=True)
            for item in self.objective.items(dict(zip(self.fields, ids, strict=True)))
        ]
        dataset = MicroBatches(
            items, self.objective, self.batching, self.tokenizer.special.pad, self.seed
        )
        longest = int(dataset.lengths.max())
        if longest > self.batching.microbatch_tokens:
            raise UserError(
                f"data.microbatch_tokens={self.batching.microbatch_tokens} is smaller than the "
                f"longest {split} example ({longest} real tokens): raise it to at least {longest}"
            )
        _check_targets(dataset, split)
        return dataset

    def state_dict(self) -> dict[str, int]:
        """Where the stream of training steps is; part of each checkpoint."""
        assert self.trainer is not None
        return {"step": self.trainer.global_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on after the steps that were made, whatever the topology was then."""
        self.first_step = state_dict["step"]

    def topology(self) -> Topology:
        """How batches are cut for the trainer at hand; one rank without a trainer."""
        ranks, rank = (
            (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        )
        return Topology(ranks, rank, self.batching.microbatch_tokens)

    def train_steps(self) -> GlobalBatches:
        """The training steps of this rank, in order."""
        return GlobalBatches(
            self.splits["train"].lengths,
            self.batching.budget,
            self.topology(),
            self.seed,
            self.epochs,
            self.first_step,
        )

    def idle_ranks(self, ranks: int) -> int:
        """How many of so many ranks find nothing to do in any step of the first epoch."""
        return max(0, ranks - max(len(batch) for batch in self.train_steps().epoch(0)))

    def train_dataloader(self) -> DataLoader[list[Batch]]:
        """Yields, for each optimizer step, this rank's micro-batches."""
        return self._loader(self.splits["train"], sampler=self.train_steps())

    def val_dataloader(self) -> DataLoader[Batch]:
        """Yields this rank's part of the validation split, each example once."""
        return self._loader(EvaluationBatches(self.splits["val"], self.topology()))

    def test_dataloader(self) -> DataLoader[Batch]:
        """Yields this rank's part of the test split, each example once."""
        return self._loader(EvaluationBatches(self.splits["test"], self.topology()))

    def _loader(self, dataset: Dataset, sampler: GlobalBatches | None = None) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=None,  # the dataset makes the batches
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer is not None
            and self.trainer.strategy.root_device.type == "cuda",
        )


def _check_targets(dataset: MicroBatches, split: str) -> None:
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
        say(
            f"warning: {empty} of {len(checked)} {split} examples have no target token: they teach "
            f"nothing; see what {objective} ignores or cuts off"
        )
