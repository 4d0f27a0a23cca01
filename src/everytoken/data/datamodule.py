"""Corpus → loaders of micro-batches, as a LightningDataModule. No tensor arithmetic here.

The way: source (texts by split) → tokenizer (trained on the training split) → objective (items)
→ cache (items on disk) → sampler (which items make a step) → objective (examples) → collate
(padding) → `Batch`.
"""

import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, Dataset

from everytoken.batch import Batch
from everytoken.corpora.prepared import Prepared
from everytoken.data.ahead import ahead
from everytoken.data.blocks import ShuffledBlocks
from everytoken.data.cache.prepared import PreparedItems
from everytoken.data.cache.shards import ShardStore
from everytoken.data.cache.store import ItemStore
from everytoken.data.cache.tokenized import Cache
from everytoken.data.corpus import Corpus, Source
from everytoken.data.counts import Counts
from everytoken.data.cut import Topology
from everytoken.data.epoch import Marks
from everytoken.data.fields import has_labels
from everytoken.data.micro_batches import Batching, EvaluationBatches, MicroBatches, check_targets
from everytoken.data.objective import ObjectiveFactory, build_objective
from everytoken.data.order import LARGE, Mixture, Order, ShortFirst, Shuffled, mixture_of
from everytoken.data.sampler import EpochSteps, GlobalBatches, RankSampler, StepPlan
from everytoken.data.settings import check_blocks
from everytoken.errors import UserError
from everytoken.runtime.console import warn
from everytoken.runtime.data_ranks import data_ranks
from everytoken.runtime.signals import begin_loader
from everytoken.tokenizer.tokenizer import Tokenizer

SPLITS = ("train", "val", "test")

START_METHOD = "fork" if sys.platform == "linux" else None
"""Of loader processes; None is the platform's own. From Python 3.14 on, Linux's default would have
each import everything again."""

DEALING = 2
"""How steps are dealt out: 1 balances tokens, and any order is a permutation in memory. A run keeps
to what its checkpoint says, or it wouldn't go on bit for bit."""


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
        timeout: seconds that they may take for a micro-batch; 0 for no limit.
        seed: seed of shuffling and of the objective's randomness.
        epochs: passes over the training split; None for no end.
        mixture: of a source that is a `Mix`, its "weights" by part, and what they are shares of,
            "by" "tokens" or "examples".
        shuffle_blocks: "block" and "together" of `ShuffledBlocks`; None to shuffle all at once.
        curriculum_epochs: so many first epochs go from short examples to long.
        cache_dir: where tokenized texts are kept on disk; None keeps them in memory.
        configs: for `cache_dir`, of what source, tokenizer and objective were made, see `Cache`.

    Raises:
        UserError: a source that doesn't fit the task, an empty split, an example too long, no
            target token anywhere.
        ValueError: neither `tokenizer` nor `train_tokenizer`.
    """

    def __init__(
        self,
        *,
        source: Source,
        fields: Sequence[str],
        limit_examples: int | None = None,
        make_objective: ObjectiveFactory,
        train_tokenizer: Callable[[Iterable[str]], Tokenizer] | None = None,
        tokenizer: Tokenizer | None = None,
        splits: Sequence[str] = SPLITS,
        batching: Batching,
        num_workers: int = 0,
        timeout: float = 0,
        seed: int = 0,
        epochs: int | None = None,
        mixture: Mapping[str, Any] | None = None,
        shuffle_blocks: Sequence[int] | None = None,
        curriculum_epochs: int = 0,
        cache_dir: Path | None = None,
        configs: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        corpus = Corpus(source, fields, limit_examples)
        cache = Cache(cache_dir, configs, corpus)
        if isinstance(source, Prepared):
            cache, mixture = PreparedItems(source, corpus), mixture or source.mixture
        if tokenizer is None:
            if train_tokenizer is None:
                raise ValueError("give TokenDataModule a tokenizer, or train_tokenizer to make one")
            texts = corpus.texts("train", check=splits)
            tokenizer = cache.tokenizer(train_tokenizer, texts)
            tokenizer.labels = []  # those in a file of others are of another corpus
        if has_labels(fields) and not tokenizer.labels:
            tokenizer.labels = cache.labels()
            if len(tokenizer.labels) < 2:
                raise UserError(
                    f"all labels of the training split are {tokenizer.labels[0]!r}: there is "
                    "nothing to tell apart"
                    if tokenizer.labels
                    else "no example of the training split has a label: there is nothing to learn"
                )
        check_blocks(shuffle_blocks, mixture)
        self.source = source
        self.tokenizer = tokenizer
        self.batching = batching
        self.num_workers = num_workers
        self.timeout = timeout if num_workers > 0 else 0
        self.seed = seed
        self.epochs = epochs
        self.first_step = 0
        self.dealing = DEALING
        self.marks = Marks()
        """What is known of the stream of training steps."""
        self.mixture = mixture
        self.shuffle_blocks = shuffle_blocks
        self.curriculum_epochs = curriculum_epochs
        self.fields = fields
        self.objective = build_objective(make_objective, tokenizer)
        self.tokenizer = getattr(self.objective, "tokenizer", tokenizer)
        self.counts: dict[str, Counts] = {}
        """What each split holds."""
        self.splits = {split: self._tokenize(split, cache) for split in splits}

    def _tokenize(self, split: str, cache: Cache | PreparedItems) -> MicroBatches:
        items = cache.items(split, self.tokenizer, self.objective)
        self.counts[split] = Counts(**items.notes)
        dataset = MicroBatches(
            items, self.objective, self.batching, self.tokenizer.special.pad, self.seed
        )
        if items.longest > self.batching.microbatch_tokens:
            raise UserError(
                f"data.microbatch_tokens={self.batching.microbatch_tokens} is smaller than the "
                f"longest {split} example ({items.longest} real tokens): raise it to at least "
                f"{items.longest}"
            )
        if not isinstance(items, ShardStore):  # of which that was done before
            check_targets(dataset, split)
        return dataset

    def state_dict(self) -> dict[str, Any]:
        """Where the stream of training steps is, and in which one; part of each checkpoint."""
        assert self.trainer is not None
        texts = {split: counts.checksum for split, counts in self.counts.items()}
        step = self.trainer.global_step
        steps = {"dealing": self.dealing, "of": self._stream, **self.marks.state(step)}
        return {"step": step, "examples": self._examples, "texts": texts, "steps": steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the steps that were made, whatever the topology was then."""
        self.first_step = state_dict["step"]
        self.know(state_dict)
        saved = state_dict.get("texts", {})  # checkpoints of earlier versions have none
        others = [s for s, own in self.counts.items() if s in saved and saved[s] != own.checksum]
        changed = f"{' and '.join(others)} texts" if others else ""
        if not others and "train" in self.splits and state_dict["examples"] != self._examples:
            changed = "training examples"
        if changed:
            warn(
                f"the {changed} are others than when the checkpoint was saved: from here on this "
                "is no longer the same run"
            )

    def know(self, state_dict: Mapping[str, Any]) -> None:
        """Take from a checkpoint how its run deals out steps, and what it knows of them."""
        steps = state_dict.get("steps", {"dealing": 1, "of": None})  # earlier versions have none
        if steps["dealing"] != self.dealing:
            self.dealing, self.marks = steps["dealing"], Marks()
            for made in ("order", "mixed", "_stream"):
                self.__dict__.pop(made, None)
        if "train" in self.splits and steps["of"] == self._stream:
            self.marks.learn(steps)

    @cached_property
    def _examples(self) -> int:
        """A checksum of the training examples' lengths, which decide the order of all examples."""
        train = self.splits["train"]
        if isinstance(train.items, ItemStore):
            return train.items.lengths_checksum
        return zlib.crc32(train.lengths.data)

    @cached_property
    def _stream(self) -> str:
        """What decides the training steps."""
        budget = self.batching.budget
        order = f"{self.seed} {self.curriculum_epochs} {self.mixture}"
        if self.shuffle_blocks is not None:
            order += f" {list(self.shuffle_blocks)}"
        return f"{self._examples} {budget.tokens} {budget.examples} {order}"

    def topology(self) -> Topology:
        """How batches are cut for the trainer at hand; one rank without a trainer."""
        ranks = data_ranks(self.trainer)
        work = self.batching.work if self.dealing > 1 else None
        return Topology(ranks.size, ranks.rank, self.batching.microbatch_tokens, work)

    def train_steps(self) -> GlobalBatches:
        """The training steps of this rank, in order."""
        return GlobalBatches(
            self.splits["train"].lengths,
            self.batching.budget,
            self.topology(),
            self.seed,
            self.epochs,
            self.first_step,
            self.order,
            self.marks,
        )

    @cached_property
    def mixed(self) -> Mixture | None:
        """How the training examples of a mix follow each other; None of a single corpus."""
        if self.mixture is None:
            return None
        parts = self.counts["train"].parts
        return mixture_of(self.mixture, parts, self.splits["train"].lengths, self._large)

    @cached_property
    def order(self) -> Order:
        """How all training examples follow each other."""
        lengths = self.splits["train"].lengths
        order = self.mixed or Shuffled(len(lengths), self._large)
        if self.shuffle_blocks is not None:
            order = ShuffledBlocks(len(lengths), *self.shuffle_blocks, large=self._large)
        epochs = self.curriculum_epochs
        return ShortFirst(order, lengths, epochs) if epochs else order

    @property
    def _large(self) -> int:
        return LARGE if self.dealing > 1 else sys.maxsize

    def idle_ranks(self, ranks: int) -> int:
        """How many of so many ranks find nothing to do in any step of the first epoch."""
        return max(0, ranks - self.train_steps().largest()) if ranks > 1 else 0

    def train_dataloader(self) -> DataLoader[list[Batch]]:
        """Yields, for each optimizer step, this rank's micro-batches.

        Without end, or `epochs` long; but an epoch at a time if the trainer has max_epochs.
        """
        steps = self.train_steps()
        by_epoch = self.trainer is not None and (self.trainer.max_epochs or -1) >= 0
        own = EpochSteps(steps) if by_epoch else steps
        train = self.splits["train"]
        return self._loader(train, ahead(own, StepPlan.indices, train.items))

    def val_dataloader(self) -> DataLoader[Batch]:
        """Yields this rank's part of the validation split, each example once."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Yields this rank's part of the test split, each example once."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: str) -> DataLoader[Batch]:
        batches = EvaluationBatches(self.splits[split], self.topology())
        own, items = range(len(batches)), batches.examples.items
        return self._loader(batches, ahead(own, batches.micro_batches.__getitem__, items))

    def _loader(self, dataset: Dataset, own: Iterable[Any]) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=None,  # the dataset makes the batches
            sampler=RankSampler(own, self.topology()),
            num_workers=self.num_workers,
            multiprocessing_context=START_METHOD if self.num_workers > 0 else None,
            timeout=self.timeout,
            worker_init_fn=begin_loader if self.num_workers > 0 else None,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer is not None
            and self.trainer.strategy.root_device.type == "cuda",
        )
