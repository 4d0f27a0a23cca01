"""The global batches of an epoch, and what is known of where they begin."""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from everytoken.data.cut import fill
from everytoken.data.order import WINDOW, EpochOrder, Indices
from everytoken.data.settings import check_budget

FIRST_WINDOW = 1 << 16
"""Examples that are looked at at a time, to begin with."""


@dataclass(frozen=True)
class BatchBudget:
    """Size of a global batch: exactly one of the two is set."""

    tokens: int | None
    """Real tokens, at most (a longer example is a batch of its own)."""
    examples: int | None
    """Examples, exactly (but for the last batch of an epoch)."""

    def __post_init__(self) -> None:
        check_budget(self.tokens, self.examples)

    def cut(self, lengths: Sequence[int] | Indices) -> list[int]:
        """Where global batches end in an order of examples with these lengths."""
        if self.examples is not None:
            return [*range(self.examples, len(lengths), self.examples), len(lengths)]
        assert self.tokens is not None
        return fill(lengths, self.tokens)


class Window(NamedTuple):
    """Batches in a row."""

    begin: int
    """Where the first begins in the epoch's order."""
    examples: Indices
    """Those of the batches, and perhaps some more."""
    sizes: Indices | None
    """Real tokens of each; None if nobody needed to know."""
    ends: list[int]
    """Where batches end in them."""


class EpochBatches:
    """Global batches, cut from an order when they are asked for: a long epoch has very many.

    Args:
        order: the epoch's.
        lengths: (examples,) real tokens of each example of the corpus.
        budget: size of a batch.
    """

    def __init__(self, order: EpochOrder, lengths: Indices, budget: BatchBudget) -> None:
        self.order = order
        self.lengths = lengths
        self.budget = budget

    def __iter__(self) -> Iterator[Indices]:
        """Indices of the examples of each."""
        for window in self.windows():
            yield from np.split(window.examples[: window.ends[-1]], window.ends[:-1])

    def __len__(self) -> int:
        return sum(len(window.ends) for window in self.windows(size=WINDOW))

    def windows(self, begin: int = 0, size: int = FIRST_WINDOW) -> Iterator[Window]:
        """All batches from a place in the order on at which one begins.

        Args:
            begin: the place.
            size: examples in memory at a time; more if there are few batches in them.
        """
        while begin < len(self.order):
            examples = self.order[begin : begin + size]
            # Where examples are counted, their lengths needn't be read, which takes time.
            sizes = None if self.budget.tokens is None else self.lengths[examples]
            ends = self.budget.cut(examples if sizes is None else sizes)
            if begin + len(examples) < len(self.order):
                ends.pop()  # that batch may go on
            if ends:
                yield Window(begin, examples, sizes, ends)
                begin += ends[-1]
            if len(ends) < 8:
                size *= 2


class Mark(NamedTuple):
    """A step, and where it begins."""

    step: int
    epoch: int
    place: int
    """In the epoch's order."""


class Marks:
    """What is known of a stream of steps, so that nobody has to count them again."""

    def __init__(self) -> None:
        self.begins = [0]
        """The first step of each epoch, as far as it is known."""
        self._latest: deque[Mark] = deque(maxlen=1000)

    def before(self, step: int) -> Mark:
        """The last one that isn't after a step."""
        epoch = bisect_right(self.begins, step) - 1
        known = [mark for mark in self._latest if mark.step <= step]
        return max([Mark(self.begins[epoch], epoch, 0), *known])

    def add(self, mark: Mark) -> None:
        """Of the latest, which are added in order, some are kept."""
        if not self._latest or mark.step > self._latest[-1].step:
            self._latest.append(mark)

    def begin(self, epoch: int, step: int) -> None:
        """Note the first step of an epoch."""
        if epoch == len(self.begins):
            self.begins.append(step)

    def state(self, step: int) -> dict[str, Any]:
        """For a checkpoint after so many steps."""
        return {"begins": [*self.begins], "mark": [*self.before(step)]}

    def learn(self, state: Mapping[str, Any]) -> None:
        """Take what `state` has kept of the same stream."""
        self.begins = max(self.begins, state["begins"], key=len)
        self.add(Mark(*state["mark"]))
