"""Batches of any framework: their tensors by place, and the padding that a collate puts there.

A batch is a dict, a tuple, a dataclass or a tensor, and those in each other. Nothing but its
tensors is looked at: (B, T, …) where a sequence is a row.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from everytoken.batch import PaddingSide

Scalar = int | float | bool

Place = tuple[str | int, ...]
"""Where a tensor is in a batch: keys, names of fields, positions in tuples."""


def tensors(batch: Any) -> dict[Place, Tensor]:
    """All tensors of a batch, by place."""
    if isinstance(batch, Tensor):
        return {(): batch}
    parts = {key: tensors(part) for key, part in _parts(batch)}
    return {(key, *rest): t for key, found in parts.items() for rest, t in found.items()}


def _parts(batch: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(batch, Mapping):
        yield from batch.items()
    elif isinstance(batch, list | tuple):
        yield from enumerate(batch)
    elif is_dataclass(batch):
        yield from ((field.name, getattr(batch, field.name)) for field in fields(batch))


def with_tensors(batch: Any, new: Mapping[Place, Tensor]) -> Any:
    """The same batch with other tensors in some places; the one that is given stays as it is."""
    if isinstance(batch, Tensor):
        return new.get((), batch)
    changed = {
        key: with_tensors(part, {place[1:]: t for place, t in new.items() if place[:1] == (key,)})
        for key, part in _parts(batch)
    }
    if isinstance(batch, Mapping):
        made: Any = copy.copy(batch)
        for key, part in changed.items():
            made[key] = part
        return made
    if isinstance(batch, list | tuple):
        parts = changed.values()
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return replace(batch, **{str(key): part for key, part in changed.items()}) if changed else batch


@dataclass(frozen=True)
class Padding:
    """What a collate puts where a sequence is shorter than others."""

    values: Mapping[Place, Scalar | None]
    """By the place of a tensor with a row for each example; None where all rows are as wide."""
    side: PaddingSide = "right"

    @classmethod
    def learned(cls, alone: Sequence[Any], together: Any) -> "Padding | None":
        """By a comparison of batches of one example each with one of all of them.

        None if no row of `together` holds what `alone` has, and something else beside it.
        """
        singles = [tensors(batch) for batch in alone]
        rows = {
            place: [(row, single[place][0]) for row, single in zip(whole, singles, strict=True)]
            for place, whole in tensors(together).items()
            if whole.ndim > 1
            and len(whole) == len(alone)
            and all(place in single and len(single[place]) == 1 for single in singles)
        }
        shorter = {
            place: [(row, own) for row, own in pairs if len(own) < len(row)]
            for place, pairs in rows.items()
        }
        pairs = [pair for some in shorter.values() for pair in some]
        right = sum(torch.equal(row[: len(own)], own) for row, own in pairs)
        left = sum(torch.equal(row[-len(own) :], own) for row, own in pairs)
        if not max(left, right):
            return None
        side: PaddingSide = "left" if left > right else "right"
        at = 0 if side == "left" else -1
        values = {
            place: some[0][0][at].flatten()[0].item() if (some := shorter[place]) else None
            for place in rows
        }
        return cls(values, side)

    def joined(
        self,
        like: Any,
        rows: Sequence[Any],
        *,
        extra: int = 0,
        side: PaddingSide | None = None,
        garbage: Mapping[Place, Tensor] | None = None,
    ) -> Any:
        """A batch of examples, padded as the collate does, or in another way.

        Args:
            like: the collate's batch of them; what is no padded tensor comes from there.
            rows: a batch of each example alone.
            extra: columns more than the longest needs.
            side: of the padding; None for the collate's own.
            garbage: by place, (n,) values to put into the padding, over and over.
        """
        made: dict[Place, Tensor] = {}
        singles = [tensors(batch) for batch in rows]
        for place, value in self.values.items():
            parts = [single[place] for single in singles]
            if value is None:
                made[place] = torch.cat(parts)
                continue
            width = max(part.shape[1] for part in parts) + extra
            shape = (len(parts), width, *parts[0].shape[2:])
            whole = torch.full(shape, value, dtype=parts[0].dtype)
            if garbage and place in garbage:
                some = garbage[place].to(whole.dtype)
                whole = some.repeat(whole.numel() // len(some) + 1)[: whole.numel()].view(shape)
            for row, part in zip(whole, parts, strict=True):
                kept = part.shape[1]
                row[width - kept if (side or self.side) == "left" else 0 :][:kept] = part[0]
            made[place] = whole
        return with_tensors(like, made)


def cut(batch: Any, mask: Place | None, labels: Place | None, ignored: Iterable[int]) -> Any:
    """A batch of one example without the columns at its edges that its mask calls padding.

    A tensor that has labels to learn there is left as it is.
    """
    found = tensors(batch)
    if mask is None or mask not in found or found[mask].ndim != 2:
        return batch
    real = found[mask][0].bool().nonzero().flatten()
    width = found[mask].shape[1]
    if not len(real) or len(real) == width:
        return batch
    first, last = int(real[0]), int(real[-1]) + 1
    kept: dict[Place, Tensor] = {}
    for place, tensor in found.items():
        if tensor.ndim < 2 or tensor.shape[:2] != (1, width):
            continue
        outside = torch.cat([tensor[:, :first], tensor[:, last:]], 1)
        if place == labels and not torch.isin(outside, torch.tensor([*ignored])).all():
            continue
        kept[place] = tensor[:, first:last]
    return with_tensors(batch, kept)


def filling(batch: Any, mask: Place | None, labels: Place | None) -> list[int] | None:
    """The labels of an example where its mask says padding; None if they have other places."""
    found = tensors(batch)
    if mask not in found or labels not in found or found[mask].shape != found[labels].shape:
        return None
    if found[mask].ndim != 2 or found[labels].is_floating_point():
        return None
    return found[labels][0][~found[mask][0].bool()].tolist()


def rows_of(batch: Any) -> list[Any]:
    """Each row of a ready batch as a batch of its own."""
    found = tensors(batch)
    count = max((len(t) for t in found.values() if t.ndim), default=0)
    return [
        with_tensors(batch, {p: t[i : i + 1] for p, t in found.items() if t.ndim and len(t) > i})
        for i in range(count)
    ]


def stacked(rows: Sequence[Any]) -> Any:
    """A batch of rows that `rows_of` took from one."""
    found = [tensors(row) for row in rows]
    return with_tensors(
        rows[0], {p: torch.cat([one[p] for one in found]) for p, t in found[0].items() if t.ndim}
    )
