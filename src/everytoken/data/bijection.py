"""A shuffled order of very many examples that is never in memory: a permutation that is computed.

A Feistel network over the numbers below a x b, which is at least their count: each number is split
into a row below a and a column below b, and by turns one of the two is moved by a random amount
that depends on the other. Each turn can be undone, so no number comes twice. Numbers from the count
on are sent through again until they are below (cycle walking; Black and Rogaway 2002): there are
fewer than a of them. The amounts are tables of about sqrt(count) random numbers: 1.5 MB in all for
a billion.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
"""Luby and Rackoff (1988) prove 4 for random tables; with 8 even 16 examples look shuffled."""

BLOCK = 1 << 13
"""Numbers at a time, so that they stay in the processor's cache."""


class Bijection:
    """A random order of the numbers from 0 to `count`, each once: `order[begin:end]`.

    Args:
        count: at least 1.
        key: decides the order, on any machine.
    """

    def __init__(self, count: int, key: Sequence[int]) -> None:
        self.count = count
        rows = math.isqrt(count - 1) + 1
        self.sides = (rows, -(-count // rows))
        rng = np.random.default_rng([*key])
        self.tables = [
            rng.integers(self.sides[i % 2], size=self.sides[1 - i % 2]) for i in range(ROUNDS)
        ]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, window: slice) -> NDArray[np.int64]:
        """(end - begin,) what stands at places in a row."""
        begin, end, _ = window.indices(self.count)
        return self.at(np.arange(begin, end))

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) what stands at n places."""
        blocks = [self._moved(places[i : i + BLOCK]) for i in range(0, len(places), BLOCK)]
        found = np.concatenate([*blocks, np.zeros(0, np.int64)])
        while len(outside := np.flatnonzero(found >= self.count)):
            found[outside] = self._moved(found[outside])
        return found

    def _moved(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        row = numbers // self.sides[1]
        pair = [row, numbers - row * self.sides[1]]
        amount = np.empty_like(row)
        for i, table in enumerate(self.tables):
            moved, by = pair[i % 2], pair[1 - i % 2]
            table.take(by, out=amount, mode="clip")  # which is faster, and clips nothing
            moved += amount
            # Modulo: below 0 an unsigned number is very large.
            unsigned = moved.view(np.uint64)
            np.minimum(unsigned, unsigned - np.uint64(self.sides[i % 2]), out=unsigned)
        return pair[0] * self.sides[1] + pair[1]
