"""Which split an example belongs to, and that no example is in two."""

import json
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    MutableSequence,
    Sequence,
)
from functools import cached_property, partial
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

import numpy as np

from everytoken.corpora.long_text import LongText, encoded_blocks
from everytoken.corpora.shares import last_of_most, split_of
from everytoken.errors import UserError
from everytoken.runtime.console import Watch

SPLITS = ("train", "val", "test")

LEAKED = "also in a held-out split"
BLANK = "blank on one side"

FIRST = 5
"""Of so many examples that were left out it is told where they are."""


class SplitSource(ABC):
    """A source that reads what is stored of each split, and holds examples out where nothing is.

    Held-out examples that are stored apart (in files of their own, say) are that split, and an
    equal example of training is left out, as one of validation is if it is in the test split too.
    If none are stored, a share of the training examples is held out: which ones is decided by a
    hash of (seed, texts), so equal examples are in one split, and the split of an example doesn't
    depend on others or on their order. Nothing but 8 bytes for each stored held-out example is kept
    in memory.

    Args:
        stored: the splits that are stored; "train" is one of them.
        val_fraction: share of the training examples for validation if it isn't stored, 0 to 1.
        test_fraction: the same for test.
        seed: decides which examples; apart from the run's seed.

    Raises:
        UserError: fractions that leave nothing to train on.
    """

    fields: tuple[str, ...]

    own: str
    """Settings that name where a split is stored."""

    blank = BLANK
    """Why an example is left out of which a part is blank."""

    kept: str | None = None
    """A field with a list in JSON: the first example of each of its values stays in training. By it
    examples aren't told apart: one that comes with two lists is in one split, too."""

    most_held_out: int | None = None
    """Most examples of a share that is held out, each different text counted once; None for no
    limit. What is over stays in training."""

    advice = "give more or raise it; equal ones stay together"
    """What to do if the draw leaves a split empty."""

    def __init__(
        self, stored: Collection[str], val_fraction: float, test_fraction: float, seed: int
    ) -> None:
        if "train" not in stored:
            raise UserError("no training examples are named: see conf/data/ for how")
        fractions = {"val": val_fraction, "test": test_fraction}
        for split, share in fractions.items():
            if not isinstance(share, int | float) or not 0 <= share < 1:
                raise UserError(f"data.{split}_fraction={share} must be at least 0 and below 1")
        self.shares = {name: share for name, share in fractions.items() if name not in stored}
        if sum(self.shares.values()) >= 1:
            raise UserError(
                f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} must "
                "leave something to train on: their sum must be below 1"
            )
        self.stored = stored
        self._hasher = blake2b(digest_size=8, key=str(seed).encode())
        self.dropped: dict[str, dict[str, int]] = {}
        """Examples that were left out, by split and reason; of splits that were read to the end."""
        self.dropped_at: dict[str, dict[str, str]] = {}
        """Where the first of these are, in words."""
        self.gaps: dict[str, list[int]] = {}
        """Places of these and of blank lines, from 0 among all that is stored of a held-out split,
        as far as it was read."""
        self.place = -1  # that of the example which was read last
        self._held_out: dict[str, array[int]] = {}

    @abstractmethod
    def read(self, split: str) -> Iterator[dict[str, str]]:
        """All that is stored of a split, texts by field; blank ones, too."""

    @abstractmethod
    def where(self, split: str) -> str:
        """What is stored of a split, in words."""

    def unit(self, split: str) -> str:
        """What is counted of what is stored, in words."""
        return "examples"

    def part_in_words(self, split: str) -> str:
        """What the examples of a split are: all that is stored of it, or a share of others."""
        if split in self.stored:
            return f"all of {self.where(split)}"
        share = (
            f"a share of {self.shares[split]:g} (data.{split}_fraction) of {self.where('train')}"
        )
        return f"{share}; what {self.own.format(split=split)} names is measured as a whole"

    def examples(self, split: str) -> Iterable[Mapping[str, str]]:
        """The examples of a split, read anew each time.

        Raises:
            UserError: when it is reached: what can't be read, or an empty split.
        """
        return Stream(partial(self._stream, split))

    def part(self, split: str, texts: dict[str, str], key: int) -> dict[str, str] | None:
        """What of a training example belongs to a split that may not be stored; None for nothing.

        Args:
            split: the split.
            texts: the example.
            key: hash of seed and texts.
        """
        if self.kept is not None and key in self._kept:
            return texts if split == "train" else None
        last = {} if self.most_held_out is None else self._last_held_out
        return texts if split_of(key, self.shares, last) == split else None

    def _stream(self, split: str) -> Iterator[dict[str, str]]:
        stored = split if split in self.stored else "train"
        if split != "train" and split not in self.stored and not self.shares[split]:
            raise UserError(
                f"the {split} split is empty: set {self.own.format(split=split)}, or "
                f"data.{split}_fraction above 0"
            )
        held_out = [self._hashes(name) for name in self._later(stored)]
        read = count = 0
        dropped: Counter[str] = Counter()
        first: dict[str, list[int]] = {LEAKED: [], self.blank: []}  # places, from 1
        gaps: MutableSequence[int] = deque(maxlen=0)  # as if there were none
        if split == stored != "train":
            gaps = self.gaps[split] = []
        for place, whole in enumerate(self.read(stored)):
            blank = [not text or text.isspace() for text in whole.values()]
            if all(blank):
                gaps.append(place)
                continue  # no example, but a line between examples
            read += 1
            key = self._hash(whole)
            texts = whole if stored != "train" else self.part(split, whole, key)
            if texts is None:
                continue
            leaked = held_out and any(holds(hashes, key) for hashes in held_out)
            if leaked or any(blank):
                reason = LEAKED if leaked else self.blank
                dropped[reason] += 1
                gaps.append(place)
                if len(first[reason]) <= FIRST:
                    first[reason].append(place + 1)
            else:
                count, self.place = count + 1, place
                yield texts
        at = {reason: f"{self.unit(stored)} {numbers(first[reason])}" for reason in dropped}
        if not count:
            raise UserError(
                f"the {split} split is empty: {self._why(split, stored, read, dropped, at)}"
            )
        self.dropped[split], self.dropped_at[split] = dict(dropped), at

    def _later(self, stored: str) -> list[str]:
        """Stored splits that examples of this one must not be in."""
        return [name for name in SPLITS[SPLITS.index(stored) + 1 :] if name in self.stored]

    def _hashes(self, split: str) -> "array[int]":
        if split not in self._held_out:
            hashes = array("Q")
            with Watch(f"reading {split}", lambda: len(hashes), unit="records"):
                hashes.extend(self._hash(texts) for texts in self.read(split))
            np.frombuffer(hashes, np.uint64).sort()
            self._held_out[split] = hashes
        return self._held_out[split]

    @cached_property
    def _last_held_out(self) -> dict[str, int]:
        """See `last_of_most`: all training examples are read for it, once."""
        assert self.most_held_out is not None
        keys = array("Q", [0])
        with Watch("dividing train", lambda: keys[0], unit="records"):
            return last_of_most(self._counted(keys), self.shares, self.most_held_out)

    def _counted(self, count: "array[int]") -> Iterator[int]:
        for texts in self.read("train"):
            if not all(not text or text.isspace() for text in texts.values()):
                count[0] += 1
                yield self._hash(texts)

    @cached_property
    def _kept(self) -> set[int]:
        """Hashes of the first example of each value of the field that training keeps."""
        first: dict[str, int] = {}
        for texts in self.read("train"):
            for value in json.loads(texts[str(self.kept)] or "[]"):
                if value not in first:
                    first[value] = self._hash(texts)
        return {*first.values()}

    def _hash(self, texts: Mapping[str, str]) -> int:
        hasher = self._hasher.copy()
        values = [value for field, value in texts.items() if field != self.kept]
        if type(values[0]) is not str and isinstance(values[0], LongText):
            for block in encoded_blocks(values[0]):
                hasher.update(block)
        else:
            hasher.update(joined(values))
        return int.from_bytes(hasher.digest(), "little")

    def _why(
        self, split: str, stored: str, read: int, dropped: Counter[str], at: Mapping[str, str]
    ) -> str:
        where = self.where(stored)
        if not read:
            return f"{where} has no example, at most blank lines"
        if dropped:
            left = f"of {where}, {in_words(dropped, at)} were left out, and nothing is left"
            return f"{left}: {self._others(split)}" if dropped[LEAKED] else left
        if split == "train":
            return f"all of the {read} examples of {where} were held out: give more"
        return (
            f"none of the {read} examples of {where} fell to it by data.{split}_fraction="
            f"{self.shares[split]}: {self.advice}; or set {self.own.format(split=split)}"
        )

    def _others(self, split: str) -> str:
        """What to do where all examples are in a later split, too."""
        need = "each split needs examples of its own, so give others"
        if split == "train":
            return need
        share = f"data.{split}_fraction of the training examples"
        return f"{need} by {self.own.format(split=split)}, or null to hold out {share}"


def hold_out_at_most(source: Any, most: int | None) -> Any:
    """The same source, none of whose shares, nor of its parts', has more; stored splits may."""
    for part in (source, *getattr(source, "parts", {}).values()):
        if isinstance(part, SplitSource):
            part.most_held_out = most
    return source


class Stream(Iterable[Mapping[str, str]]):
    """What can be read again."""

    def __init__(self, read: Callable[[], Iterator[Mapping[str, str]]]) -> None:
        self.read = read

    def __iter__(self) -> Iterator[Mapping[str, str]]:
        return self.read()


def joined(values: Iterable[str]) -> bytes:
    """What tells some values from others: no text holds a NUL."""
    return b"\0".join(value.encode() for value in values)


def holds(hashes: "array[int]", key: int) -> bool:
    """Whether sorted hashes have this one."""
    place = bisect_left(hashes, key)
    return place < len(hashes) and hashes[place] == key


def in_words(dropped: Mapping[str, int], at: Mapping[str, str] = MappingProxyType({})) -> str:
    """How many examples were left out, why, and where the first of them are, if that is known."""
    return ", ".join(
        f"{count:,} {reason}" + (f" ({at[reason]})" if reason in at else "")
        for reason, count in dropped.items()
    )


def numbers(first: Sequence[int]) -> str:
    """The first few of some numbers, in words."""
    return ", ".join([*map(str, first[:FIRST]), *["…"] * (len(first) > FIRST)])
