"""Which examples a share of them is, and where a share of one text lies."""

from array import array
from collections.abc import Iterable, Mapping

import numpy as np

HASHES = 2**64
"""How many values a hash can take."""

THOUSAND = 1000
"""Characters, or tokens, of a text that is cut by position which count as one example."""


def split_of(key: int, shares: Mapping[str, float], last: Mapping[str, int]) -> str:
    """The split of a hash: each share has a range of them, and training what is left.

    Args:
        key: of the example.
        shares: fractions by split.
        last: the largest hash of a split that has no more examples.
    """
    place, end = key / HASHES, 0.0
    for name, share in shares.items():
        if end <= place < end + share and key <= last.get(name, HASHES):
            return name
        end += share
    return "train"


def last_of_most(keys: Iterable[int], shares: Mapping[str, float], most: int) -> dict[str, int]:
    """The largest hash of each split that has more examples than it may; none of other splits.

    Equal examples are one, and which ones are left depends on no order. Memory is for four times as
    many hashes as are left.

    Args:
        keys: of all examples.
        shares: fractions by split.
        most: examples of each split.
    """
    found = {name: array("Q") for name, share in shares.items() if share}
    full: set[str] = set()
    for key in keys:
        name = split_of(key, shares, {})
        if name != "train":
            found[name].append(key)
            if len(found[name]) >= 4 * most:
                kept = np.unique(np.frombuffer(found[name], np.uint64))
                if len(kept) > most:
                    full.add(name)
                found[name] = array("Q", kept[:most].tobytes())
    last = {}
    for name, some in found.items():
        kept = np.unique(np.frombuffer(some, np.uint64))
        if name in full or len(kept) > most:
            last[name] = int(kept[most - 1])
    return last


def by_position(
    length: int, shares: Mapping[str, float], most: int | None = None
) -> dict[str, tuple[int, int]]:
    """Where the part of each split begins and ends, if training has the first, test the last.

    Args:
        length: of a text, in characters or tokens.
        shares: fractions by split.
        most: thousands of a held-out part; None for no limit.
    """
    test = int(length * (1 - shares.get("test", 0)))
    val = int(length * (1 - sum(shares.values())))
    if most is not None:
        test = max(test, length - most * THOUSAND)
        val = max(val, test - most * THOUSAND)
    return {"train": (0, val), "val": (val, test), "test": (test, length)}
