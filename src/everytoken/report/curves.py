"""metrics.csv → curves, thinned to what a page can draw."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

POINTS = 1000
"""Most points of a curve; the extremes are among them."""

Series = dict[int, float]
"""Value by step; NaN and infinities included."""

Curve = tuple[list[int], list[float | None]]
"""Steps, and values: None where one isn't finite."""


def read_metrics(file: Path) -> dict[str, Series]:
    """Columns of metrics.csv by name, without what the evaluation after training adds to val/.

    A line that is being written may be cut off: what can't be read is left out.
    """
    with file.open(newline="", encoding="utf-8", errors="replace") as lines:
        header, *rows = list(csv.reader(line.replace("\0", "") for line in lines)) or [[]]
    columns: dict[str, Series] = {}
    is_final = False
    for row in reversed(rows):
        values = dict(_numbers(header, row))
        if "step" not in values:
            continue
        step = int(values.pop("step"))
        if any(name.startswith("test/") for name in values):
            is_final = True
        elif is_final and any(name.startswith("val/") for name in values):
            is_final = False
            continue
        for name, value in values.items():
            columns.setdefault(name, {}).setdefault(step, value)  # of a step, the last line's
    return columns


def _numbers(header: list[str], row: list[str]) -> Iterator[tuple[str, float]]:
    for name, text in zip(header, row, strict=False):
        try:
            yield name, float(text)
        except ValueError:
            continue


def curve(series: Series, points: int = POINTS) -> Curve:
    """At most so many points in the order of steps, lowest and highest of each stretch kept."""
    steps = sorted(series)
    values = [series[step] for step in steps]
    if len(steps) > points:
        kept = _extremes(np.array(values), points)
        steps, values = [steps[i] for i in kept], [values[i] for i in kept]
    return steps, [float(f"{v:.6g}") if math.isfinite(v) else None for v in values]


def _extremes(values: np.ndarray, points: int) -> list[int]:
    finite = np.where(np.isfinite(values), values, np.nan)
    kept = {0, len(values) - 1}
    for part in np.array_split(np.arange(len(values)), points // 2 - 1):
        inside = finite[part]
        if np.isnan(inside).all():
            kept.add(int(part[0]))
        else:
            kept |= {int(part[np.nanargmin(inside)]), int(part[np.nanargmax(inside)])}
    return sorted(kept)
