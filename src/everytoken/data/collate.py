"""Examples → `Batch`. The only place where padding is made.

Labels are padded with IGNORE_INDEX and never with a vocabulary id. So the padding id of the inputs
may be any id, the end-of-sequence token's included, and the model still learns to stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everytoken.batch import IGNORE_INDEX, Batch, PaddingSide, References

Ids = NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Example:
    """One training sequence, before padding.

    Args:
        input_ids: (T,) what the model reads.
        labels: (T,) what it must predict at each position; IGNORE_INDEX where nothing.
        source_ids: (S,) what the encoder reads, for sequence-to-sequence models.
        classes: (C,) 1 for each class that it is of, else 0, where it may be of several.
        prefix_length: how many of its first tokens may see each other both ways; None for none
            that may, in any example of the task.
    """

    input_ids: Ids
    labels: Ids
    source_ids: Ids | None = None
    classes: Ids | None = None
    prefix_length: int | None = None


def collate(
    examples: Sequence[Example],
    pad_id: int,
    *,
    padding_side: PaddingSide = "right",
    pad_to_multiple_of: int = 1,
    indices: Sequence[int] | None = None,
    is_filler: bool = False,
    references: References | None = None,
) -> Batch:
    """Pad examples to a common width, the longest one's or the next multiple.

    Args:
        examples: one or more, all with a source or all without.
        pad_id: the id that fills inputs and sources; its value makes no difference.
        padding_side: "left" or "right".
        pad_to_multiple_of: widths are rounded up to a multiple of this many positions.
        indices: which examples of their split they are; None if of no split.
        is_filler: marks the result as no data (see `filler`).
        references: what evaluation compares the examples with.

    Raises:
        ValueError: no examples, or options out of range.
    """
    if not examples:
        raise ValueError(
            "collate needs at least one example; for an empty micro-batch use filler()"
        )
    if pad_to_multiple_of < 1:
        raise ValueError(f"pad_to_multiple_of must be at least 1, got {pad_to_multiple_of}")

    for i, example in enumerate(examples):
        if len(example.labels) != len(example.input_ids):
            raise ValueError(
                f"example {i} has {len(example.input_ids)} input_ids and {len(example.labels)} "
                "labels: give one label per input (IGNORE_INDEX where there is none)"
            )

    def padded(rows: Sequence[Ids], fill: int) -> Tensor:
        longest = max(len(row) for row in rows)
        width = -(-longest // pad_to_multiple_of) * pad_to_multiple_of
        out = np.full((len(rows), width), fill, dtype=np.int64)
        for line, row in zip(out, rows, strict=True):
            if padding_side == "left":
                line[width - len(row) :] = row
            else:
                line[: len(row)] = row
        return torch.from_numpy(out)

    def lengths(rows: Sequence[Ids]) -> Tensor:
        return torch.tensor([len(row) for row in rows], dtype=torch.int64)

    inputs = [example.input_ids for example in examples]
    sources = [example.source_ids for example in examples if example.source_ids is not None]
    if sources and len(sources) != len(examples):
        raise ValueError("some examples have source_ids and some have none: give all or none")
    classes = [example.classes for example in examples if example.classes is not None]
    prefixes = [e.prefix_length for e in examples if e.prefix_length is not None]
    return Batch.make(
        input_ids=padded(inputs, pad_id),
        labels=padded([example.labels for example in examples], IGNORE_INDEX),
        lengths=lengths(inputs),
        source_ids=padded(sources, pad_id) if sources else None,
        source_lengths=lengths(sources) if sources else None,
        padding_side=padding_side,
        indices=None if indices is None else torch.tensor(indices),
        is_filler=is_filler,
        references=references,
        classes=torch.from_numpy(np.stack(classes).astype(np.int64)) if classes else None,
        prefix_lengths=torch.tensor(prefixes) if prefixes else None,
    )


def filler(pad_id: int, *, with_source: bool) -> Batch:
    """An all-ignored micro-batch of one position, for a rank that has no examples left."""
    one = np.array([pad_id])
    example = Example(one, np.array([IGNORE_INDEX]), one if with_source else None)
    return collate([example], pad_id, is_filler=True)
