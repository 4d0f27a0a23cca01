"""Where an example is stored, in words: found by reading once more, and only for a message."""

import re
from copy import copy
from itertools import islice
from typing import Any

from everytoken.corpora.splits import SplitSource
from everytoken.errors import UserError


def located(error: UserError, source: object, split: str) -> UserError:
    """The same mistake of an example ("train example 3 …"), with file and line if it has some."""
    found = re.search(rf"\b{split} example (\d+)", str(error))
    where = whereabouts(source, split, int(found[1])) if found else ""
    if not found or not where:
        return error
    return UserError(f"{error}".replace(found[0], f"{found[0]} ({where})", 1))


def whereabouts(source: object, split: str, number: int) -> str:
    """Where an example of a split is stored; "" if nobody knows.

    Args:
        source: of the examples.
        split: "train", "val" or "test".
        number: of the example among those of the split, from 0.
    """
    if not isinstance(source, SplitSource):
        return ""
    again: Any = copy(source)
    again.gaps = {}
    if next(islice(again.examples(split), number, None), None) is None:
        return ""
    stored, left = split if split in again.stored else "train", again.place
    whole = getattr(source, "files", None)
    if whole is None:
        return f"{source.where(stored)}, {source.unit(stored).removesuffix('s')} {left + 1}"
    for entry in whole[stored]:
        again.files, count = {**whole, stored: [entry]}, 0
        for count, _ in enumerate(again.read(stored), start=1):
            if count > left:
                return f"{again.where(stored)}, {again.unit(stored).removesuffix('s')} {count}"
        left -= count
    return ""
