"""In which order an epoch goes through the examples: a function of (seed, epoch) alone.

Of more than `LARGE` examples no order is ever in memory: it is computed, a window at a time.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from everytoken.data.bijection import Bijection
from everytoken.errors import UserError

Indices = NDArray[np.int64]

LARGE = 1 << 24
"""More examples are shuffled without a permutation in memory. Another number would change the order
of runs in between."""

WINDOW = 1 << 20
"""Places of an order that are in memory at a time."""


class EpochOrder(Protocol):
    """The examples of an epoch, in order: an array, or what computes its parts."""

    def __len__(self) -> int: ...
    def __getitem__(self, window: slice, /) -> Indices:
        """(end - begin,) indices of examples."""
        ...


class Order(Protocol):
    """Which examples an epoch has, in order."""

    is_computed: bool
    """True if no epoch is in memory as a whole."""
    typical: int
    """An epoch whose beginning is like the rest of it."""

    def __call__(self, seed: int, epoch: int) -> EpochOrder:
        """As many examples in each epoch."""
        ...


def shuffled(count: int, key: Sequence[int], is_computed: bool) -> Bijection | Indices:
    """The numbers from 0 to `count` in an order that a key decides."""
    return Bijection(count, key) if is_computed else np.random.default_rng(key).permutation(count)


class Shuffled:
    """Each example once, anew in each epoch.

    Args:
        count: examples.
        large: how many are in memory as a permutation at most.
    """

    def __init__(self, count: int, large: int = LARGE) -> None:
        self.count = count
        self.is_computed, self.typical = count > large, 0

    def __call__(self, seed: int, epoch: int) -> EpochOrder:
        """(count,) indices of examples."""
        return shuffled(self.count, [seed, epoch], self.is_computed)


class ShortFirst:
    """The examples of another order; in the first epochs from short to long, equally long ones as
    the other order has them.

    If the other order is computed, such an epoch is sorted into a temporary file ($TMPDIR) first.

    Args:
        order: the other.
        lengths: (examples,) real tokens of each example.
        epochs: how many begin with short ones.
    """

    def __init__(self, order: Order, lengths: Indices, epochs: int) -> None:
        self.order = order
        self.is_computed, self.typical = order.is_computed, epochs
        self.lengths = lengths
        self.epochs = epochs
        self._sorted: tuple[tuple[int, int], EpochOrder] | None = None

    def __call__(self, seed: int, epoch: int) -> EpochOrder:
        """(examples,) indices of examples."""
        found = self.order(seed, epoch)
        if epoch >= self.epochs:
            return found
        if not self.is_computed:
            whole = found[0 : len(found)]
            return whole[np.argsort(self.lengths[whole], kind="stable")]
        if self._sorted is None or self._sorted[0] != (seed, epoch):
            self._sorted = (seed, epoch), self._sort(found)
        return self._sorted[1]

    def _sort(self, order: EpochOrder) -> Indices:
        """A counting sort by length, in a file that is gone when nobody reads it any longer."""
        width = int(self.lengths.max()) + 1
        counts = sum(np.bincount(self.lengths[part], minlength=width) for part in windows(order))
        places = np.cumsum(counts) - counts  # where the next example of each length goes
        with tempfile.TemporaryFile() as file:
            in_order = np.memmap(file, np.int64, "w+", shape=len(order))
        for part in windows(order):
            part = part[np.argsort(self.lengths[part], kind="stable")]
            lengths = self.lengths[part]
            found, begins, counts = np.unique(lengths, return_index=True, return_counts=True)
            in_order[places[lengths] + np.arange(len(part)) - np.repeat(begins, counts)] = part
            places[found] += counts
        return in_order


class Mixture:
    """Examples of several corpora by weight; an epoch is as long as all of them together.

    Each corpus is an endless stream of its examples, shuffled anew in each pass, and an epoch takes
    from each stream where the one before stopped. So over any number of epochs, the examples taken
    of a corpus are its share, to less than the number of corpora, and each of its examples is taken
    as often as any other of it, to one.

    Args:
        sizes: examples of each corpus; the first corpus has the first indices.
        weights: of each corpus, above 0.
        large: see `Shuffled`.

    Raises:
        ValueError: sizes and weights that don't fit, or out of range; too few examples to divide.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], large: int = LARGE) -> None:
        if len(sizes) != len(weights) or min(sizes, default=0) < 1 or min(weights) <= 0:
            raise ValueError(f"sizes {sizes} and weights {weights} must be as many, and above 0")
        if sum(sizes) < len(sizes) ** 2:
            raise ValueError(f"{sum(sizes)} examples are too few to mix {len(sizes)} corpora")
        self.sizes = sizes
        self.count = sum(sizes)
        self.is_computed, self.typical = self.count > large, 0
        self.shares = np.array(weights, dtype=np.float64) / sum(weights)

    def __call__(self, seed: int, epoch: int) -> EpochOrder:
        """(count,) indices of examples; one may come more than once, or not at all."""
        drawn = MixedEpoch(self, seed, epoch)
        return drawn if self.is_computed else drawn[0 : self.count]

    @property
    def passes(self) -> list[float]:
        """How often an epoch goes through each corpus."""
        return [self.count * p / n for p, n in zip(self.shares, self.sizes, strict=True)]

    def taken(self, epochs: int) -> Indices:
        """(corpora,) examples of each in so many epochs, together epochs x count; only growing."""
        taken = np.floor(self.shares * (epochs * self.count)).astype(np.int64)
        largest = int(self.shares.argmax())  # it takes what the others' fractions leave
        taken[largest] += epochs * self.count - taken.sum()
        return taken


class MixedEpoch:
    """An epoch of a mixture: the streams' parts one after the other, shuffled.

    Args:
        mixture: of which corpora.
        seed: see `Order`.
        epoch: which.
    """

    def __init__(self, mixture: Mixture, seed: int, epoch: int) -> None:
        self.mixture = mixture
        self.seed = seed
        self.order = shuffled(mixture.count, [seed, epoch], mixture.is_computed)
        self.begins = mixture.taken(epoch)
        self.bounds = np.cumsum(mixture.taken(epoch + 1) - self.begins)
        self._passes: dict[int, Bijection | Indices] = {}
        """Orders of the passes that the latest window was in."""

    def __len__(self) -> int:
        return self.mixture.count

    def __getitem__(self, window: slice) -> Indices:
        """(end - begin,) indices of examples."""
        places = self.order[window]
        corpora = np.searchsorted(self.bounds, places, side="right")
        sizes = np.array(self.mixture.sizes)
        streams = self.begins - np.concatenate([[0], self.bounds[:-1]])
        passes, places = np.divmod(places + streams[corpora], sizes[corpora])
        # Places of the same pass over the same corpus, together.
        keys = passes * len(sizes) + corpora
        by_key = np.argsort(keys, kind="stable")
        different, begins = np.unique(keys[by_key], return_index=True)
        used = self._passes
        self._passes = {}
        found = np.cumsum(sizes)[corpora] - sizes[corpora]
        for key, group in zip(different.tolist(), np.split(by_key, begins[1:]), strict=True):
            number, corpus = divmod(key, len(sizes))
            if (order := used.get(key)) is None:
                of_pass = [self.seed, corpus, number, 1]
                order = shuffled(int(sizes[corpus]), of_pass, self.mixture.is_computed)
            self._passes[key] = order
            at = places[group]
            found[group] += order.at(at) if isinstance(order, Bijection) else order[at]
        return found


def windows(order: EpochOrder) -> Iterator[Indices]:
    """All of an order, in parts that fit into memory."""
    yield from (order[begin : begin + WINDOW] for begin in range(0, len(order), WINDOW))


def mixture_of(
    settings: Mapping[str, Any], sizes: Sequence[int], lengths: Indices, large: int = LARGE
) -> Mixture:
    """The mixture that settings ask for.

    Args:
        settings: "weights" by name of a corpus, and what they are shares of, "by" "tokens" or
            "examples".
        sizes: examples of each corpus.
        lengths: (examples,) real tokens of each example.
        large: see `Shuffled`.

    Raises:
        UserError: a corpus without examples, or too few examples to mix.
    """
    names, weights = zip(*settings["weights"].items(), strict=True)
    if len(sizes) < len(names) or 0 in sizes:
        empty = names[[*sizes, 0].index(0)]
        raise UserError(f"data.parts.{empty} has no training example: leave it out, or give some")
    shares = np.array(weights, dtype=np.float64)
    if settings["by"] == "tokens":
        starts = np.cumsum([0, *sizes[:-1]])
        shares /= np.add.reduceat(lengths, starts) / sizes
    try:
        return Mixture(sizes, shares.tolist(), large)
    except ValueError as error:
        raise UserError(f"data.parts: {error}") from error
