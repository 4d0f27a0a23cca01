"""In which order an epoch goes through the examples: a function of (seed, epoch) alone."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from everytoken.errors import UserError

Indices = NDArray[np.int64]


class Order(Protocol):
    """Which examples an epoch has, in order."""

    def __call__(self, seed: int, epoch: int) -> Indices:
        """Indices of examples, as many in each epoch."""
        ...


class Shuffled:
    """Each example once, anew in each epoch.

    Args:
        count: examples.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, seed: int, epoch: int) -> Indices:
        """(count,) indices of examples."""
        return np.random.default_rng([seed, epoch]).permutation(self.count)


class ShortFirst:
    """The examples of another order; in the first epochs from short to long, equally long ones as
    the other order has them.

    Args:
        order: the other.
        lengths: (examples,) real tokens of each example.
        epochs: how many begin with short ones.
    """

    def __init__(self, order: Order, lengths: Indices, epochs: int) -> None:
        self.order = order
        self.lengths = lengths
        self.epochs = epochs

    def __call__(self, seed: int, epoch: int) -> Indices:
        """(examples,) indices of examples."""
        found = self.order(seed, epoch)
        if epoch >= self.epochs:
            return found
        return found[np.argsort(self.lengths[found], kind="stable")]


class Mixture:
    """Examples of several corpora by weight; an epoch is as long as all of them together.

    Each corpus is an endless stream of its examples, shuffled anew in each pass, and an epoch takes
    from each stream where the one before stopped. So over any number of epochs, the examples taken
    of a corpus are its share, to less than the number of corpora, and each of its examples is taken
    as often as any other of it, to one.

    Args:
        sizes: examples of each corpus; the first corpus has the first indices.
        weights: of each corpus, above 0.

    Raises:
        ValueError: sizes and weights that don't fit, or out of range; too few examples to divide.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float]) -> None:
        if len(sizes) != len(weights) or min(sizes, default=0) < 1 or min(weights) <= 0:
            raise ValueError(f"sizes {sizes} and weights {weights} must be as many, and above 0")
        if sum(sizes) < len(sizes) ** 2:
            raise ValueError(f"{sum(sizes)} examples are too few to mix {len(sizes)} corpora")
        self.sizes = sizes
        self.count = sum(sizes)
        self.shares = np.array(weights, dtype=np.float64) / sum(weights)

    def __call__(self, seed: int, epoch: int) -> Indices:
        """(count,) indices of examples; one may come more than once, or not at all."""
        begins, ends = self._taken(epoch), self._taken(epoch + 1)
        parts, first = [], 0
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            parts.append(first + self._stream(seed, number, begin, end))
            first += self.sizes[number]
        return np.random.default_rng([seed, epoch]).permutation(np.concatenate(parts))

    @property
    def passes(self) -> list[float]:
        """How often an epoch goes through each corpus."""
        return [self.count * p / n for p, n in zip(self.shares, self.sizes, strict=True)]

    def _taken(self, epochs: int) -> list[int]:
        """Examples of each corpus in so many epochs, together epochs x count; they only grow."""
        taken = np.floor(self.shares * (epochs * self.count)).astype(np.int64)
        largest = int(self.shares.argmax())  # it takes what the others' fractions leave
        taken[largest] += epochs * self.count - taken.sum()
        return taken.tolist()

    def _stream(self, seed: int, number: int, begin: int, end: int) -> Indices:
        """A part of the endless stream of a corpus."""
        size = self.sizes[number]
        passes = range(begin // size, -(-end // size)) if end > begin else range(0)
        found = [np.random.default_rng([seed, number, n, 1]).permutation(size) for n in passes]
        if not found:
            return np.zeros(0, dtype=np.int64)
        before = passes[0] * size
        return np.concatenate(found)[begin - before : end - before]


def mixture_of(settings: Mapping[str, Any], sizes: Sequence[int], lengths: Indices) -> Mixture:
    """The mixture that settings ask for.

    Args:
        settings: "weights" by name of a corpus, and what they are shares of, "by" "tokens" or
            "examples".
        sizes: examples of each corpus.
        lengths: (examples,) real tokens of each example.

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
        return Mixture(sizes, shares.tolist())
    except ValueError as error:
        raise UserError(f"data.parts: {error}") from error
