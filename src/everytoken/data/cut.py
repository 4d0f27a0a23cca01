"""How the global batch of a step is cut over ranks and micro-batches. It changes no result."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from everytoken.data.balance import (
    Indices,
    Shares,
    Work,
    descending,
    share_tokens,
    share_work,
)

FEW = 4096
"""So many examples are tried to be shared by tokens too, if that takes fewer micro-batches: a rank
can be full to the last token."""

MORE_WORK = 1.05
"""What the busiest rank may have more to do for that."""


class Topology(NamedTuple):
    """How global batches are cut. It never changes a result."""

    ranks: int
    rank: int
    microbatch_tokens: int
    """Most real tokens that go through one forward and backward of one device."""
    work: Work | None = None
    """What an example costs, which all ranks have as much of; None for its tokens."""


def cut(batch: Indices, lengths: Indices, topology: Topology) -> list[list[int]]:
    """Cut a global batch into micro-batches and return those of one rank.

    All ranks get the same number of micro-batches, and nearly the same work. In a rank, sequences
    of like length share a micro-batch. None exceeds `microbatch_tokens` unless one example does.

    Args:
        batch: (n,) indices of examples.
        lengths: (examples,) real tokens of each example of the corpus.
        topology: ranks and micro-batch size.

    Returns:
        Indices of each micro-batch of `topology.rank`; an empty one calls for a filler.
    """
    return cut_sized(batch, lengths[batch], topology)


def cut_sized(batch: Indices, sizes: Indices, topology: Topology) -> list[list[int]]:
    """The same of examples whose real tokens (n,) are known already."""
    mine, count = (_by_tokens if topology.work is None else _by_work)(sizes, topology)
    parts = _split(sizes[mine], topology.microbatch_tokens)
    pieces = np.split(batch[mine], parts[:-1]) if len(mine) else []
    return [piece.tolist() for piece in pieces] + [[] for _ in range(count - len(pieces))]


def _by_work(sizes: Indices, topology: Topology) -> tuple[Indices, int]:
    """Which positions are this rank's, the longest first; and micro-batches of all ranks."""
    ranks, rank, limit, work = topology
    assert work is not None
    costs = work.of(sizes)
    owners = share_work(costs, ranks)
    if np.bincount(owners, sizes).max() <= limit:  # so nobody else's share needs sorting
        mine = np.flatnonzero(owners == rank)
        return mine[descending(sizes[mine])], 1
    shares = Shares.of(owners, sizes, ranks)
    count = _most_parts(sizes[shares.positions], shares.borders, limit)
    if len(sizes) <= FEW and count > -(-sizes.sum() // (ranks * limit)):
        by_tokens = share_tokens(sizes, ranks)
        fewer = _most_parts(sizes[by_tokens.positions], by_tokens.borders, limit)
        if fewer < count and by_tokens.most(costs) <= shares.most(costs) * MORE_WORK:
            shares, count = by_tokens, fewer
    return shares.of_rank(rank), count


def _by_tokens(sizes: Indices, topology: Topology) -> tuple[Indices, int]:
    """The same, as before work was counted."""
    shares = share_tokens(sizes, topology.ranks)
    limit = topology.microbatch_tokens
    count = _most_parts(sizes[shares.positions], shares.borders, limit)
    return shares.of_rank(topology.rank), count


def fill(sizes: Sequence[int] | Indices, limit: int) -> list[int]:
    """Where parts end that take as many sizes in a row as fit; one above the limit stands alone."""
    total = np.cumsum(sizes)
    ends: list[int] = []
    begin = 0
    while begin < len(sizes):
        before = total[begin - 1] if begin else 0
        fits = int(np.searchsorted(total, before + limit, side="right"))
        begin = max(fits, begin + 1)
        ends.append(begin)
    return ends


def _most_parts(sizes: Indices, borders: Indices, limit: int) -> int:
    """Into how many parts, as `fill` makes them, the shares between borders fall at most."""
    total = np.concatenate([[0], np.cumsum(sizes)])
    limit = min(limit, int(total[-1]))  # or a sum with no limit at all would overflow
    at, ends, count = borders[:-1], borders[1:], 0
    while (at < ends).any():
        fits = np.searchsorted(total, total[at] + limit, side="right") - 1
        at, count = np.minimum(np.maximum(fits, at + 1), ends), count + 1
    return count


def _split(sizes: Indices, limit: int) -> list[int]:
    """Where to cut into as few parts as can be, none above limit, of nearly equal sums."""
    if not len(sizes):
        return []
    full = fill(sizes, limit)
    total = np.cumsum(sizes)
    shares = total[-1] * np.arange(1, len(full)) / len(full)
    even = np.unique([*np.searchsorted(total, shares) + 1, len(sizes)])
    sums = np.add.reduceat(sizes, [0, *even[:-1]])
    return even.tolist() if sums.max() <= limit else full
