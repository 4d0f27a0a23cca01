"""Which examples make up each optimizer step, and how a step is cut over devices.

The *global batch* of a step is a function of (seed, step) and nothing else: examples of a freshly
shuffled order (`order.py`), taken until the batch is full. Only then is it cut into micro-batches
for the *topology* at hand (ranks x micro-batches), sequences of like length together. An epoch ends
with what is left of its order; of its examples none is dropped or repeated.
"""

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast, overload

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from everytoken.data.order import Indices, Order, Shuffled
from everytoken.data.settings import check_budget


class StepPlan(NamedTuple):
    """What one rank does in one optimizer step."""

    epoch: int
    micro_batches: list[list[int]]
    """Indices of examples; an empty list stands for a filler."""


class Topology(NamedTuple):
    """How global batches are cut. It never changes a result."""

    ranks: int
    rank: int
    microbatch_tokens: int
    """Most real tokens that go through one forward and backward of one device."""


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
        total = np.cumsum(lengths)
        ends: list[int] = []
        begin = 0
        while begin < len(lengths):
            before = total[begin - 1] if begin else 0
            fits = int(np.searchsorted(total, before + self.tokens, side="right"))
            begin = max(fits, begin + 1)
            ends.append(begin)
        return ends


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
    ) -> None:
        self.order = order or Shuffled(len(lengths))
        self.lengths = lengths
        self.budget = budget
        self.topology = topology
        self.seed = seed
        self.epochs = epochs
        self.first_step = first_step
        self._ends = [0]

    def __iter__(self) -> Iterator[StepPlan]:
        epoch, skip = self.position()
        while self.epochs is None or epoch < self.epochs:
            yield from self.steps_of(epoch, skip)
            epoch, skip = epoch + 1, 0

    def position(self) -> tuple[int, int]:
        """In which epoch the stream begins, and how many of its steps are made already."""
        epoch, skip = 0, self.first_step
        if per_epoch := self.steps_of_any_epoch():
            return divmod(skip, per_epoch)
        while skip and skip >= (steps := len(self.epoch(epoch))):
            epoch, skip = epoch + 1, skip - steps
        return epoch, skip

    def steps_of(self, epoch: int, skip: int = 0) -> Iterator[StepPlan]:
        """The steps of one epoch, but for the first few."""
        for batch in self.epoch(epoch)[skip:]:
            yield StepPlan(epoch, cut(batch, self.lengths, self.topology))

    def epoch(self, epoch: int) -> "EpochBatches":
        """The global batches of an epoch: indices of examples, in shuffled order."""
        order = self.order(self.seed, epoch)
        # Where examples are counted, their lengths needn't be read, which takes time.
        lengths = self.lengths if self.budget.tokens is None else self.lengths[order]
        ends = np.array(self.budget.cut(lengths), dtype=np.int64)
        return EpochBatches(order, np.concatenate([[0], ends[:-1]]), ends)

    def total_steps(self) -> int:
        """Optimizer steps of the whole stream; `epochs` must be set."""
        assert self.epochs is not None
        if per_epoch := self.steps_of_any_epoch():
            return self.epochs * per_epoch
        return sum(len(self.epoch(epoch)) for epoch in range(self.epochs))

    def epochs_after(self, step: int) -> float:
        """Passes over the examples that so many steps make."""
        if per_epoch := self.steps_of_any_epoch():
            return step / per_epoch
        while self._ends[-1] < step:
            self._ends.append(self._ends[-1] + len(self.epoch(len(self._ends) - 1)))
        epoch = max(1, bisect_left(self._ends, step))
        begin, end = self._ends[epoch - 1], self._ends[epoch] if step else 1
        return epoch - 1 + (step - begin) / (end - begin)

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
        epoch, skip = self.stream.position() if self.next is None else (self.next, 0)
        self.next = epoch + 1
        return self.stream.steps_of(epoch, skip)

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


class EpochBatches(Sequence[Indices]):
    """Global batches, cut from an order when they are asked for: a long epoch has very many.

    Args:
        order: (examples,) indices of examples.
        starts: (batches,) where batches start in it.
        ends: (batches,) where they end.
    """

    def __init__(self, order: Indices, starts: Indices, ends: Indices) -> None:
        self.order = order
        self.starts = starts
        self.ends = ends

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> Indices: ...
    @overload
    def __getitem__(self, index: slice) -> "EpochBatches": ...
    def __getitem__(self, index: int | slice) -> "Indices | EpochBatches":
        if isinstance(index, slice):
            return EpochBatches(self.order, self.starts[index], self.ends[index])
        return self.order[self.starts[index] : self.ends[index]]

    @property
    def largest(self) -> int:
        """Examples of the largest batch."""
        return int((self.ends - self.starts).max())


def cut(batch: Indices, lengths: Indices, topology: Topology) -> list[list[int]]:
    """Cut a global batch into micro-batches and return those of one rank.

    All ranks get the same number of micro-batches, and nearly the same number of tokens. In a rank,
    sequences of like length share a micro-batch. None exceeds `microbatch_tokens` unless one
    example does.

    Args:
        batch: (n,) indices of examples.
        lengths: (examples,) real tokens of each example of the corpus.
        topology: ranks and micro-batch size.

    Returns:
        Indices of each micro-batch of `topology.rank`; an empty one calls for a filler.
    """
    sizes = lengths[batch]
    shares = _share(sizes, topology.ranks)
    parts = [_split(sizes[share], topology.microbatch_tokens) for share in shares]
    count = max(len(part) for part in parts)
    mine = batch[shares[topology.rank]]
    pieces = np.split(mine, parts[topology.rank][:-1]) if len(mine) else []
    return [piece.tolist() for piece in pieces] + [[] for _ in range(count - len(pieces))]


def _share(sizes: Indices, ranks: int) -> list[Indices]:
    """Positions in a batch for each rank, longest first, with nearly equal sums of sizes.

    Longest first, each example goes to the rank that has least (Graham 1969); then the ranks that
    have most and least swap two examples, as long as that helps.
    """
    heap = [(0, rank) for rank in range(ranks)]
    taken: list[list[int]] = [[] for _ in heap]
    for position in np.argsort(-sizes, kind="stable").tolist():
        load, rank = heapq.heappop(heap)
        taken[rank].append(position)
        heapq.heappush(heap, (load + int(sizes[position]), rank))
    shares = [np.array(share, dtype=np.int64) for share in taken]
    loads = np.array([sizes[share].sum() for share in shares])
    while True:
        most, least = int(loads.argmax()), int(loads.argmin())
        gap = loads[most] - loads[least]
        i, j = _swap(sizes[shares[most]], sizes[shares[least]], gap)
        moved = sizes[shares[most][i]] - sizes[shares[least][j]] if len(shares[least]) else 0
        if abs(gap - 2 * moved) >= gap:
            return [share[np.argsort(-sizes[share], kind="stable")] for share in shares]
        shares[most][i], shares[least][j] = shares[least][j], shares[most][i]
        loads[[most, least]] += np.array([-1, 1]) * moved


def _swap(most: Indices, least: Indices, gap: int) -> tuple[int, int]:
    """Places of the two sizes whose swap leaves the smallest gap between two ranks.

    Not every pair is looked at: all of a split may be shared, and pairs wouldn't fit into memory.
    """
    if not len(least):
        return 0, 0
    order = np.argsort(least, kind="stable")
    place = np.searchsorted(least[order], most - gap / 2)
    near = order[np.stack((place - 1, place)).clip(0, len(least) - 1)]  # (2, len(most))
    k, i = np.unravel_index(abs(gap - 2 * (most - least[near])).argmin(), near.shape)
    return int(i), int(near[k, i])


def _split(sizes: Indices, limit: int) -> list[int]:
    """Where to cut into as few parts as can be, none above limit, of nearly equal sums."""
    if not len(sizes):
        return []
    full = BatchBudget(limit, None).cut(sizes)
    total = np.cumsum(sizes)
    shares = total[-1] * np.arange(1, len(full)) / len(full)
    even = np.unique([*np.searchsorted(total, shares) + 1, len(sizes)])
    sums = np.add.reduceat(sizes, [0, *even[:-1]])
    return even.tolist() if sums.max() <= limit else full
