"""Which rank gets which examples of a step, so that all have nearly as much to do.

Integers only, and stable sorting: each rank finds the same by itself, on any processor.
"""

import heapq
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

FEW, FEW_EACH = 4096, 8
"""So many examples, or so many a rank, are dealt one by one."""

EVEN = 100
"""Ranks swap no more when the busiest has less than 1/EVEN above the mean."""

SWAPS, CANDIDATES = 200, 64
"""So many swaps at most, each of one of so many of the busiest rank's largest."""


class Work(NamedTuple):
    """What an example costs: as many products for its tokens as for pairs of them in attention.

    An example of t tokens costs t x `even_tokens` + t², in units of one layer's products for a pair
    of tokens. A layer of width D has about 12 D² products a token, and D a pair that a causal
    attention looks at on average, 2 D where it looks both ways.
    """

    even_tokens: int
    """Length at which attention costs as much as all else: 12 D causal, 6 D both ways."""
    window: int | None = None
    """Positions that a token may look back; None for no limit."""

    def of(self, lengths: Indices) -> Indices:
        """(n,) int64: the work of examples of these lengths (n,)."""
        pairs = lengths * lengths
        if self.window is not None:
            pairs -= np.maximum(lengths - self.window, 0) ** 2
        return lengths * self.even_tokens + pairs


class Shares(NamedTuple):
    """Positions in a batch, by rank."""

    positions: Indices
    """(n,) those of rank 0, then those of rank 1, …; in each, the longest first."""
    borders: Indices
    """(ranks + 1,) where each begins, and the last ends."""

    @classmethod
    def of(cls, owners: Indices, sizes: Indices, ranks: int) -> "Shares":
        """Of a rank (n,) for each size (n,)."""
        in_order = descending(sizes)
        small = owners[in_order].astype(np.min_scalar_type(ranks))
        in_order = in_order[np.argsort(small, kind="stable")]
        return cls(in_order, np.searchsorted(owners[in_order], np.arange(ranks + 1)))

    def most(self, costs: Indices) -> int:
        """What the busiest rank has to do, of examples that cost so much (n,)."""
        total = np.concatenate([[0], np.cumsum(costs[self.positions])])
        return int(np.diff(total[self.borders]).max())

    def of_rank(self, rank: int) -> Indices:
        """Those of one rank."""
        return self.positions[self.borders[rank] : self.borders[rank + 1]]


def share_work(costs: Indices, ranks: int) -> Indices:
    """A rank for each example, so that the busiest has little more than the mean to do.

    If one example alone costs more than the mean, the busiest has nothing else. Costs above a
    quarter of the mean go to who has least, one by one. Then level by level, each of half the size
    of the one before: ranks are filled up to a common height, each with some of those in a row, in
    the order of the batch. So what a rank has too much or too little of is less than one of them;
    the last few of each level make up for it, one by one.

    Args:
        costs: (n,) of each example, see `Work`.
        ranks: at least 1.

    Returns:
        (n,) ranks.
    """
    large = int(costs.sum() // (4 * ranks)).bit_length()
    levels = large + 1 - np.minimum(np.frexp(costs.astype(np.float64))[1], large + 1)
    if len(costs) <= max(FEW, FEW_EACH * ranks):
        levels[:] = 0
    first, *others = np.split(
        np.argsort(levels.astype(np.uint8), kind="stable"), np.cumsum(np.bincount(levels))[:-1]
    )
    owners, loads = np.empty(len(costs), np.int64), np.zeros(ranks, np.int64)
    even = costs.sum() * (EVEN + 1) // (EVEN * ranks)
    owners[first] = _evened(_one_by_one(costs[first], loads), costs[first], loads, even)
    for level in others:
        filled = len(level) - ranks if len(level) > 2 * ranks else 0
        if filled:
            owners[level[:filled]] = _filled(costs[level[:filled]], loads)
        owners[level[filled:]] = _one_by_one(costs[level[filled:]], loads)
    return owners


def _evened(owners: Indices, costs: Indices, loads: Indices, even: int) -> Indices:
    """(n,) the same ranks; but the busiest swaps an example with another, for the best.

    Until none is busier than that is even, or no swap helps, or `SWAPS` are made.
    """
    for _ in range(SWAPS):
        most = int(loads.argmax())
        if loads[most] <= even:
            break
        own = np.flatnonzero(owners == most)
        own = own[descending(costs[own])[:CANDIDATES]]
        moved = costs[own][:, None] - costs
        larger = np.maximum(loads[most] - moved, loads[owners] + moved)  # after a swap
        if larger.min() >= loads[most]:
            break
        i, j = np.unravel_index(larger.argmin(), larger.shape)
        other = owners[j]
        owners[own[i]], owners[j] = other, most
        loads[[most, other]] += np.array([-1, 1]) * moved[i, j]
    return owners


def _one_by_one(costs: Indices, loads: Indices) -> Indices:
    """(n,) a rank for each cost, added to its load: the largest first, to who has least (Graham
    1969), of equal ones to the first."""
    in_order, ranks = descending(costs), len(loads)
    heap = [load * ranks + rank for rank, load in enumerate(loads.tolist())]
    heapq.heapify(heap)
    found = []
    for cost in costs[in_order].tolist():
        least = heap[0]
        found.append(least % ranks)
        heapq.heapreplace(heap, least + cost * ranks)
    for load in heap:
        loads[load % ranks] = load // ranks
    owners = np.empty(len(costs), np.int64)
    owners[in_order] = found
    return owners


def _filled(costs: Indices, loads: Indices) -> Indices:
    """(n,) a rank for each cost, added to its load: in a row each takes what it has room for."""
    ranks, total = len(loads), costs.sum()
    lowest = np.sort(loads, kind="stable")
    below, number = np.cumsum(lowest), np.arange(1, ranks + 1)
    count = np.searchsorted(lowest * number - below, total, side="right")  # ranks that get some
    height = -(-(below[count - 1] + total) // count)
    ends = np.cumsum(np.maximum(height - loads, 0))
    filled = np.cumsum(costs)
    borders = np.searchsorted(filled - costs // 2, ends, side="right")
    loads += np.diff(np.concatenate([[0], filled])[borders], prepend=0)
    return np.repeat(number - 1, np.diff(borders, prepend=0))


def share_tokens(sizes: Indices, ranks: int) -> Shares:
    """Share examples by their real tokens (n,), as before work was counted.

    Runs of then go on bit for bit. Longest first, each example goes to the rank that has least;
    then the ranks that have most and least swap two examples, as long as that helps.
    """
    shares = Shares.of(_one_by_one(sizes, np.zeros(ranks, np.int64)), sizes, ranks)
    total = np.concatenate([[0], np.cumsum(sizes[shares.positions])])
    loads = np.diff(total[shares.borders])
    while True:
        most, least = int(loads.argmax()), int(loads.argmin())
        of_most, of_least = shares.of_rank(most), shares.of_rank(least)
        gap = loads[most] - loads[least]
        i, j = _swap(sizes[of_most], sizes[of_least], gap)
        moved = sizes[of_most[i]] - sizes[of_least[j]] if len(of_least) else 0
        if abs(gap - 2 * moved) >= gap:
            break
        of_most[i], of_least[j] = of_least[j], of_most[i]
        loads[[most, least]] += np.array([-1, 1]) * moved
    for rank in range(ranks):
        share = shares.of_rank(rank)
        share[:] = share[descending(sizes[share])]
    return shares


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


def descending(values: Indices) -> Indices:
    """Where the largest stands, the second, …; equal ones in order."""
    largest = values.max(initial=0)
    # Numbers of 16 bits are sorted by their digits, ten times faster.
    kind = np.uint16 if largest < 1 << 16 else np.int64
    return np.argsort((largest - values).astype(kind), kind="stable")
