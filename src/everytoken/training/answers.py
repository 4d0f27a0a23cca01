"""Answers that evaluation generates: how far they may go, and what they are compared with."""

from collections.abc import Callable
from typing import Literal

from everytoken.batch import IGNORE_INDEX, Batch, select
from everytoken.errors import UserError

AUTO: Literal["auto"] = "auto"
"""As far as the longest reference of the split goes."""

Limit = int | Literal["auto"]
"""Most tokens of an answer, its end included."""


def limit_for(batch: Batch, limit: Limit) -> int:
    """The limit of a micro-batch's answers, the same for all of a split; 0 of a filler.

    Raises:
        UserError: auto, and nobody knows the references.
    """
    if batch.is_filler:
        return 0
    if limit != AUTO:
        return limit
    if batch.references is None:
        raise UserError(
            "max_new_tokens=auto reads in the data module how long answers are, and these batches "
            "come from elsewhere: give a number"
        )
    return batch.references.longest


def reference_ids(batch: Batch, prompts: Batch) -> list[list[int]]:
    """The targets of each row after its prompt."""
    rows = select(batch.labels, batch.is_real)
    starts = (prompts.lengths - 1).tolist()
    return [
        [token for token in row[start:] if token != IGNORE_INDEX]
        for row, start in zip(rows, starts, strict=True)
    ]


def reference_texts(
    batch: Batch, ids: list[list[int]], decode: Callable[[list[int]], str]
) -> list[str]:
    """What each row's answer should be: as the corpus has it, or else what its ids decode to."""
    known = [None] * len(ids) if batch.references is None else batch.references.texts
    return [decode(row) if text is None else text for text, row in zip(known, ids, strict=True)]


def too_short(limit: Limit | None, longest: int | None, split: str) -> str:
    """What is told beforehand if the longest reference of a split can't be reached; else ""."""
    if not isinstance(limit, int) or longest is None or longest <= limit:
        return ""
    return (
        f"max_new_tokens={limit} cuts off what evaluation generates, and the longest {split} "
        f"target has {longest} tokens with its end: auto goes as far as that"
    )


def cut_off(share: float, split: str) -> str:
    """What is told afterwards if a share of the answers came to no end; else ""."""
    if not share > 0:
        return ""
    return (
        f"{share:.1%} of the {split} answers had no end where evaluation cut them off "
        "(task.max_new_tokens): they count as they are"
    )
