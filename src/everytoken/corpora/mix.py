"""Several corpora as one; how often each is trained on is said by weights, see `data/order.py`."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np

from everytoken.corpora.splits import LEAKED, SPLITS, Stream, holds, joined
from everytoken.errors import UserError

SECOND = "second"
"""The field of a second text."""

PART = "part"
"""The field of an example that says which corpus it is of, by number."""


class Mix:
    """Several corpora, one after the other.

    Args:
        parts: corpora by name, at least two.
        second: where one has a second text, if they are of classes; None if none has.

    Raises:
        UserError: too few of them, or without a field that all have; a second text in some only.
    """

    def __init__(self, parts: Mapping[str, Any], second: str | None = None) -> None:
        if len(parts) < 2:
            raise UserError(
                "data.parts must name at least two corpora to mix, as "
                "'{a: {data: pydoc}, b: {data: text, path: FILE}}'"
            )
        self.parts = dict(parts)
        self._held_out: dict[str, list[tuple[str, array[int]]]] = {}
        self._leaked: dict[str, dict[str, int]] = {}
        every = [tuple(part.fields) for part in self.parts.values()]
        without = [name for name, own in zip(self.parts, every, strict=True) if SECOND not in own]
        if (second or len(without) < len(every)) and without:
            raise UserError(
                f"data.parts.{without[0]} has no second text, and others have one: name its "
                f"column, as data.parts.{without[0]}.second=COLUMN, or leave it out in all"
            )
        self.fields = tuple(field for field in every[0] if all(field in own for own in every))
        self.has_ids = all(getattr(part, "has_ids", False) for part in self.parts.values())
        if not self.fields:
            has = "; ".join(
                f"{n} {' and '.join(own)}" for n, own in zip(self.parts, every, strict=True)
            )
            raise UserError(f"data.parts have no field in common ({has}): mix corpora of a kind")

    def examples(self, split: str) -> "_Chain":
        """The examples of all, each with its corpus' number as a further field.

        One that a later split of any of them has too is left out, as `SplitSource` does in its own.
        """
        later = SPLITS[SPLITS.index(split) + 1 :]
        held_out = [hashes for name in later for hashes in self._hashes(name)]
        own = [self._own(name, split, held_out) for name in self.parts]
        return _Chain(own)

    def _own(
        self, name: str, split: str, held_out: Sequence[tuple[str, "array[int]"]]
    ) -> Iterable[Mapping[str, str]]:
        """What one corpus has of a split and no other has in a later one."""
        of_others = [hashes for other, hashes in held_out if other != name]
        leaked = self._leaked.setdefault(split, {})

        def read() -> Iterator[Mapping[str, str]]:
            leaked[name] = 0
            for texts in self.parts[name].examples(split):
                key = self._hash(texts)
                if any(holds(hashes, key) for hashes in of_others):
                    leaked[name] += 1
                else:
                    yield texts

        return Stream(read)

    def _hashes(self, split: str) -> list[tuple[str, "array[int]"]]:
        """Of the examples of a held-out split, by corpus; sorted."""
        if split not in self._held_out:
            found = self._held_out[split] = []
            for name, part in self.parts.items():
                hashes = array("Q", map(self._hash, part.examples(split)))
                np.frombuffer(hashes, np.uint64).sort()
                found.append((name, hashes))
        return self._held_out[split]

    def _hash(self, texts: Mapping[str, str]) -> int:
        values = joined(texts[field] for field in self.fields)
        return int.from_bytes(blake2b(values, digest_size=8).digest(), "little")

    def fingerprint(self) -> str:
        """Changes with that of any; an AttributeError if one has none."""
        return str({name: part.fingerprint() for name, part in self.parts.items()})

    @property
    def dropped(self) -> dict[str, dict[str, int]]:
        """What they left out: examples by split and reason, the corpus named."""
        found: dict[str, dict[str, int]] = {
            split: {f"{name}: {LEAKED} of another part": n for name, n in names.items() if n}
            for split, names in self._leaked.items()
        }
        for name, part in self.parts.items():
            for split, reasons in getattr(part, "dropped", {}).items():
                found.setdefault(split, {}).update({f"{name}: {r}": n for r, n in reasons.items()})
        return found


class _Chain(Iterable[dict[str, str]]):
    """What can be read again, if its parts can."""

    def __init__(self, parts: Sequence[Iterable[Mapping[str, str]]], count: int | None = None):
        self.parts = parts
        self.count = count

    def __iter__(self) -> Iterator[dict[str, str]]:
        for number, examples in enumerate(self.parts):
            for texts in islice(examples, self.count):
                yield {**texts, PART: str(number)}

    def first(self, count: int) -> "_Chain":
        """The first so many of each part."""
        return _Chain(self.parts, count)
