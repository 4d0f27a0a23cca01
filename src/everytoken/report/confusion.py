"""Which classes are taken for which, cut down to what can be looked at."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

MOST = 20
"""Classes that the page shows, the most frequent; all others are one row and one column."""

OTHERS = None
"""Their name."""


def confusion(cells: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """A matrix, rows by target and columns by prediction.

    Args:
        cells: [label, what was predicted, how often], see `MacroF1`.

    Returns:
        "labels", the most frequent ones in order of their names, null for all others; "counts" of
        them (rows and columns); how many "classes" there were.
    """
    sizes: Counter[str] = Counter()
    for target, predicted, count in cells:
        sizes[target] += count
        sizes[predicted] += 0
    shown: list[str | None] = [*sorted(name for name, _ in sizes.most_common(MOST))]
    if len(sizes) > MOST:
        shown.append(OTHERS)
    places = {name: i for i, name in enumerate(shown)}
    counts = [[0] * len(shown) for _ in shown]
    for target, predicted, count in cells:
        row, column = (places.get(name, len(shown) - 1) for name in (target, predicted))
        counts[row][column] += count
    return {"labels": shown, "counts": counts, "classes": len(sizes)}
