"""An order in two levels, for more examples than a machine holds, or reads at random."""

import numpy as np

from everytoken.data.order import LARGE, EpochOrder, Indices


class ShuffledBlocks:
    """Each example once, but those of few blocks at a time: whoever reads them needs no others.

    Examples in a row are a block. Blocks are shuffled, and of some at a time all examples.

    Args:
        count: examples.
        block: of each block, but for the last.
        together: blocks whose examples are shuffled together.
        large: see `Shuffled`.
    """

    def __init__(self, count: int, block: int, together: int, large: int = LARGE) -> None:
        self.count = count
        self.block = block
        self.together = together
        self.is_computed, self.typical = count > large, 0

    def __call__(self, seed: int, epoch: int) -> EpochOrder:
        """(count,) indices of examples."""
        blocks = EpochInBlocks(self, seed, epoch)
        return blocks if self.is_computed else blocks[0 : self.count]


class EpochInBlocks:
    """An epoch of it; the latest blocks are in memory.

    Args:
        order: of which.
        seed: see `Order`.
        epoch: which.
    """

    def __init__(self, order: ShuffledBlocks, seed: int, epoch: int) -> None:
        self.order = order
        self.key = [seed, epoch]
        blocks = np.random.default_rng(self.key).permutation(-(-order.count // order.block))
        self.begins = order.block * blocks
        """(blocks,) the first example of each, in the order in which they come."""
        sizes = np.minimum(order.block, order.count - self.begins)
        self.ends = np.add.reduceat(sizes, np.arange(0, len(sizes), order.together)).cumsum()
        """Where those that are shuffled together end in the epoch's order."""
        self._latest: tuple[int, Indices] = -1, np.zeros(0, np.int64)

    def __len__(self) -> int:
        return self.order.count

    def __getitem__(self, window: slice) -> Indices:
        """(end - begin,) indices of examples."""
        begin, end, _ = window.indices(self.order.count)
        first, last = np.searchsorted(self.ends, [begin, end - 1], side="right")
        found = [np.zeros(0, np.int64)]
        for number in range(first, last + 1) if begin < end else ():
            start = self.ends[number - 1] if number else 0
            found.append(self._pool(number)[max(0, begin - start) : end - start])
        return np.concatenate(found)

    def _pool(self, number: int) -> Indices:
        if self._latest[0] != number:
            order, rng = self.order, np.random.default_rng([*self.key, number, 2])
            own = self.begins[number * order.together : (number + 1) * order.together]
            blocks = [np.arange(a, min(a + order.block, order.count)) for a in own.tolist()]
            self._latest = number, rng.permutation(np.concatenate(blocks))
        return self._latest[1]
