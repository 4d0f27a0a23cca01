"""A user's loader: its examples, what puts them together, and which of them an epoch deals out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.utils.data import IterableDataset, WeightedRandomSampler

from everytoken.audit.foreign.batches import rows_of, stacked, tensors
from everytoken.audit.foreign.terms import (
    EXAMPLES,
    LOOKED_AT,
    NotApplicableError,
    seeded,
    spread,
)

SHUFFLING = ("RandomSampler", "DistributedSampler", "SeedableRandomSampler")
"""Samplers whose epochs are promised to differ, unless they say that they don't shuffle."""


@dataclass(frozen=True)
class Dealt:
    """What one epoch of a loader deals out."""

    numbers: Sequence[int]
    """Of its examples, in order."""
    length: int
    """Examples that there are."""
    is_shuffled: bool
    """True if another epoch is to have another order."""
    dropped: int = 0
    """Examples that an epoch may leave out, if not always the same: a short last batch's."""


def first_of(loaders: Any) -> Any:
    """A loader, or the first of several."""
    if isinstance(loaders, Mapping):
        return next(iter(loaders.values()), None)
    several = isinstance(loaders, list | tuple)
    return (loaders[0] if loaders else None) if several else loaders


def is_loader(source: Any) -> bool:
    """True for what makes batches of a dataset's examples by a collate."""
    return getattr(source, "collate_fn", None) is not None and hasattr(source, "dataset")


def read(source: Any) -> tuple[list[Any], Any]:
    """Some examples of a loader, and what puts them together.

    Of ready batches the examples are rows.
    """
    if not is_loader(source) or _batches(source) is None:
        return _rows(source), stacked
    dataset: Any = source.dataset
    if isinstance(dataset, IterableDataset):
        return list(islice(dataset, LOOKED_AT)), source.collate_fn
    return [dataset[i] for i in spread(len(dataset), LOOKED_AT)], source.collate_fn


def _rows(batches: Any) -> list[Any]:
    """Of the first of some ready batches, and of those of its width if it has few."""
    rows: list[Any] = []
    for batch in islice(batches, EXAMPLES):
        own = rows_of(batch)
        rows += own if not rows or (own and _shapes(own[0]) == _shapes(rows[0])) else []
        if len(rows) >= EXAMPLES:
            break
    return rows


def _shapes(row: Any) -> dict[Any, Any]:
    return {place: tensor.shape for place, tensor in tensors(row).items()}


def _batches(source: Any) -> Any:
    return getattr(source, "batch_sampler", None)


def dealt(loader: Any, epoch: int) -> Dealt:
    """What a loader deals out in an epoch; its own state stays as it is.

    Raises:
        NotApplicableError: that can't be known, or is drawn anew on purpose.
    """
    batches = _batches(loader) if is_loader(loader) else None
    if batches is None or isinstance(loader.dataset, IterableDataset):
        raise NotApplicableError("which examples an epoch has can't be seen without a sampler")
    sampler = getattr(batches, "sampler", loader.sampler)
    if isinstance(sampler, WeightedRandomSampler) or getattr(sampler, "replacement", False):
        raise NotApplicableError("its sampler draws some examples several times, on purpose")
    length, drawn = len(loader.dataset), getattr(sampler, "num_samples", None)
    if isinstance(drawn, int) and drawn < length and not hasattr(sampler, "num_replicas"):
        raise NotApplicableError(f"its sampler draws {drawn} of {length} examples, on purpose")
    with _generators_kept(loader, batches, sampler), seeded(epoch):
        for part in (loader, sampler, batches):
            if callable(set_epoch := getattr(part, "set_epoch", None)):
                set_epoch(epoch)
        numbers = [*_flat(batches)]
    drops = getattr(loader, "drop_last", False) or getattr(batches, "drop_last", False)
    size = getattr(batches, "batch_size", None) or getattr(loader, "batch_size", None) or 1
    name = type(sampler).__name__
    is_shuffled = getattr(sampler, "shuffle", name in SHUFFLING)
    return Dealt(numbers, length, bool(is_shuffled), size - 1 if drops else 0)


def _flat(batches: Any) -> Iterator[int]:
    for batch in batches:
        for number in batch if isinstance(batch, list | tuple) else [batch]:
            try:
                yield int(number)
            except (TypeError, ValueError):
                raise NotApplicableError("its sampler gives no numbers of examples") from None


@contextmanager
def _generators_kept(*parts: Any) -> Iterator[None]:
    found = [getattr(part, "generator", None) for part in parts]
    generators = [one for one in found if isinstance(one, torch.Generator)]
    kept = [one.get_state() for one in generators]
    epochs = [(part, part.epoch) for part in parts if isinstance(getattr(part, "epoch", None), int)]
    try:
        yield
    finally:
        for one, state in zip(generators, kept, strict=True):
            one.set_state(state)
        for part, epoch in epochs:
            part.epoch = epoch
