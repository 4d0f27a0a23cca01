"""Which examples make up each optimizer step, and how a step is cut over devices.

The *global batch* of a step is a function of (seed, step) and nothing else: examples of a freshly
shuffled order (`order.py`), taken until the batch is full. Only then is it cut into micro-batches
for the *topology* at hand (ranks x micro-batches), sequences of like length together. An epoch ends
with what is left of its order; of its examples none is dropped or repeated.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from everytoken.data.cut import Topology, cut_sized
from everytoken.data.epoch import BatchBudget, EpochBatches, Mark, Marks
from everytoken.data.order import WINDOW, Indices, Order, Shuffled
from everytoken.runtime.console import Watch


class StepPlan(NamedTuple):
    """What one rank does in one optimizer step."""

    epoch: int
    micro_batches: list[list[int]]
    """Indices of examples; an empty list stands for a filler."""

    def indices(self) -> list[int]:
        """Those of all."""
        return [index for own in self.micro_batches for index in own]


class GlobalBatches:
    """An endless (or `epochs` long) stream of steps for one rank.

    Args:
        lengths: (examples,) real tokens of each example.
        budget: size of a global batch.
        topology: how it is cut, and which part is this rank's.
        seed: seed of the shuffling.
        epochs: passes over the examples; None for no end.
        first_step: steps to skip, for a resumed run.
        order: of examples in an epoch; None for all of them, shuffled.
        marks: what is known of this stream; more is noted there.
    """

    def __init__(
        self,
        lengths: Indices,
        budget: BatchBudget,
        topology: Topology,
        seed: int,
        epochs: int | None,
        first_step: int = 0,
        order: Order | None = None,
        marks: Marks | None = None,
    ) -> None:
        self.order = order or Shuffled(len(lengths))
        self.lengths = lengths
        self.budget = budget
        self.topology = topology
        self.seed = seed
        self.epochs = epochs
        self.first_step = first_step
        self.marks = marks or Marks()

    def __iter__(self) -> Iterator[StepPlan]:
        begin = self.find(self.first_step)
        while self.epochs is None or begin.epoch < self.epochs:
            yield from self.steps_from(begin)
            begin = Mark(self.first_step_of(begin.epoch + 1), begin.epoch + 1, 0)

    def find(self, step: int) -> Mark:
        """Where a step begins, from what is known before it: beyond that, batches are counted."""
        if per_epoch := self.steps_of_any_epoch():
            epoch, inside = divmod(step, per_epoch)
            return Mark(step, epoch, inside * cast(int, self.budget.examples))
        known, epoch, place = self.marks.before(step)
        while known < step:
            for window in self.epoch(epoch).windows(place):
                if step - known < len(window.ends):
                    ends = [0, *window.ends]
                    return Mark(step, epoch, window.begin + ends[step - known])
                known += len(window.ends)
            epoch, place = epoch + 1, 0
            self.marks.begin(epoch, known)
        return Mark(step, epoch, place)

    def steps_from(self, begin: Mark) -> Iterator[StepPlan]:
        """The steps of an epoch from one of them on."""
        step, epoch, place = begin
        batches = self.epoch(epoch)
        for window in batches.windows(place):
            self.marks.add(Mark(step, epoch, window.begin))
            step += len(window.ends)
            if window.begin + window.ends[-1] == len(batches.order):
                self.marks.begin(epoch + 1, step)
            for part in map(slice, [0, *window.ends], window.ends):
                batch = window.examples[part]
                sizes = self.lengths[batch] if window.sizes is None else window.sizes[part]
                yield StepPlan(epoch, cut_sized(batch, sizes, self.topology))

    def epoch(self, epoch: int) -> EpochBatches:
        """The global batches of an epoch: indices of examples, in shuffled order."""
        return EpochBatches(self.order(self.seed, epoch), self.lengths, self.budget)

    def first_step_of(self, epoch: int) -> int:
        """How many steps all epochs before have; with tokens, those not known are counted."""
        if per_epoch := self.steps_of_any_epoch():
            return epoch * per_epoch
        begins = self.marks.begins
        while len(begins) <= epoch:
            with Watch(f"counting the steps of epoch {len(begins)}"):
                begins.append(begins[-1] + len(self.epoch(len(begins) - 1)))
        return begins[epoch]

    def total_steps(self) -> int:
        """Optimizer steps of the whole stream; `epochs` must be set."""
        assert self.epochs is not None
        return self.first_step_of(self.epochs)

    def steps_of_first_epoch(self) -> float:
        """Exactly, but for a very long epoch that nobody needs to count: as its beginning has."""
        if self.order.is_computed and self.epochs is None and self.budget.tokens is not None:
            return self._about
        return self.first_step_of(1)

    @cached_property
    def _about(self) -> float:
        window = next(self.epoch(self.order.typical).windows(size=WINDOW))
        return len(self.order(self.seed, 0)) * len(window.ends) / window.ends[-1]

    def epochs_after(self, step: int) -> float:
        """Passes over the examples that so many steps make."""
        if per_epoch := self.steps_of_any_epoch():
            return step / per_epoch
        if step == 0:
            return 0.0
        # Of an epoch that isn't counted the end is taken as unknown until it is reached, so that a
        # resumed run says the same.
        is_counted = not self.order.is_computed or self.epochs is not None
        if is_counted:
            while self.marks.begins[-1] < step:
                self.first_step_of(len(self.marks.begins))
        begins = self.marks.begins
        epoch = max(0, bisect_left(begins, step) - 1)
        if epoch + 1 < len(begins) and (is_counted or step == begins[epoch + 1]):
            return epoch + (step - begins[epoch]) / (begins[epoch + 1] - begins[epoch])
        return epoch + (step - begins[epoch]) / self._about

    def largest(self) -> int:
        """Examples of the largest batch among the first million examples of an epoch."""
        epoch = self.order.typical if self.order.is_computed else 0
        window = next(self.epoch(epoch).windows(size=WINDOW))
        return int(np.diff(window.ends, prepend=0).max())

    def steps_of_any_epoch(self) -> int | None:
        """Known without shuffling if examples are counted; with tokens, each epoch has its own."""
        examples = self.budget.examples
        return None if examples is None else -(-len(self.lengths) // examples)


class EpochSteps:
    """The same stream, an epoch at each `iter`: for a trainer that counts epochs (max_epochs).

    Args:
        stream: where it begins, `first_step`, the first epoch begins.
    """

    def __init__(self, stream: GlobalBatches) -> None:
        self.stream = stream
        self.next: int | None = None
        """The epoch to come; None before the first."""

    def __iter__(self) -> Iterator[StepPlan]:
        stream = self.stream
        if self.next is None:
            begin = stream.find(stream.first_step)
        else:
            begin = Mark(stream.first_step_of(self.next), self.next, 0)
        self.next = begin.epoch + 1
        return stream.steps_from(begin)

    def __len__(self) -> int:
        """Steps of each epoch; a TypeError, as of any iterable without, if they differ."""
        if (steps := self.stream.steps_of_any_epoch()) is None:
            raise TypeError("epochs have different numbers of steps")
        return steps


class RankSampler(DistributedSampler[Any]):
    """Yields what one rank does, dealt out already: Lightning leaves a DistributedSampler alone.

    Any other sampler it would deal out once more if a trainer of several devices has its default,
    `use_distributed_sampler=True`.

    Args:
        own: what to yield.
        topology: of which rank.
    """

    def __init__(self, own: Iterable[Any], topology: Topology) -> None:
        super().__init__(cast(Dataset, ()), topology.ranks, topology.rank, shuffle=False)
        self.own = own

    def __iter__(self) -> Iterator[Any]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)  # pyright: ignore[reportArgumentType]: a TypeError if it has none
