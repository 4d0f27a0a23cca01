"""Some items in few arrays: so they are written, and handed from one process to another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everytoken.data.item import Item, Reference

PARTS = [field for field in Item._fields if field not in ("reference", "place")]


@dataclass(frozen=True)
class Packed:
    """Items, all with the same fields."""

    fields: tuple[str, ...]
    """Names of those that aren't None, `reference` and `place` aside: the parts of an item."""
    tokens: NDArray[Any]
    """(tokens,) integers: all parts, one after the other."""
    sizes: NDArray[np.int64]
    """(parts,) how many tokens are of each."""
    real: NDArray[np.int64]
    """(items,) real tokens of each item's example."""
    references: list[Reference]
    """Of each item; of none if they have none."""

    @classmethod
    def of(cls, items: Sequence[tuple[Item, int]]) -> "Packed":
        """Pack at least one item, and the real tokens of each.

        Raises:
            ValueError: they are no plain arrays, or not alike.
        """
        fields: tuple[str, ...] | None = None
        parts: list[NDArray[Any]] = []
        for item, _ in items:
            if type(item) is not Item:
                raise ValueError(PLAIN)
            own = [(name, part) for name in PARTS if (part := getattr(item, name)) is not None]
            names = tuple(name for name, _ in own)
            if fields not in (None, names):
                raise ValueError(ALIKE)
            fields = names
            parts += [part for _, part in own]
        if not parts or not all(isinstance(p, np.ndarray) and p.ndim == 1 for p in parts):
            raise ValueError(PLAIN)
        kinds = {part.dtype for part in parts}
        if any(kind.kind not in "iu" for kind in kinds):
            raise ValueError(PLAIN)
        if len(kinds) > 1:
            raise ValueError(ALIKE)
        references = [item.reference for item, _ in items if item.reference]
        if references and len(references) < len(items):
            raise ValueError("some items have a reference and some have none")
        sizes = np.array([len(part) for part in parts], "<i8")
        real = np.array([length for _, length in items], "<i8")
        return cls(fields or (), np.concatenate(parts), sizes, real, references)

    def __len__(self) -> int:
        return len(self.real)

    @property
    def kind(self) -> tuple[tuple[str, ...], str]:
        """What all items of a store have alike."""
        return self.fields, self.tokens.dtype.str

    def items(self) -> Iterator[tuple[Item, int]]:
        """What was packed, each item's arrays a part of these."""
        ends = pairwise([0, *np.cumsum(self.sizes).tolist()])
        references: Sequence[Reference | None] = self.references or [None] * len(self.real)
        for real, reference in zip(self.real.tolist(), references, strict=True):
            parts: dict[str, Any] = {n: self.tokens[slice(*next(ends))] for n in self.fields}
            yield Item(**parts, reference=reference), real


PLAIN = "items must be everytoken's Item, of one-dimensional arrays of integers"
ALIKE = "items differ in the dtype of their ids, or in their fields"
