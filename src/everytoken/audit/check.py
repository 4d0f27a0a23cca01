"""What a check is, and how differences are measured."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isnan
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from everytoken.audit.observe import Row

ROUNDING = 5e-5
"""Relative difference that float32 may make: 4e-6 was measured with shipped models, 1e-5 with odd
ones, and the faults that are looked for lie above 1e-3."""


Subject = TypeVar("Subject")
"""What is audited: of a fork its parts, of foreign code a door to it."""


class Finding(NamedTuple):
    """What a check measured."""

    difference: float
    """The worst one; 0 is right, NaN never is."""
    limit: float = ROUNDING
    """Largest difference that passes."""
    note: str = ""
    """What differs, for the reader of a failure."""
    applies: bool = True
    """False if the check asks nothing of this task or model; the note says why."""


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """One line of the audit."""

    name: str
    meaning: str
    """What holds if it passes."""
    look: str
    """Where to look if it fails."""
    measure: Callable[[Subject], Finding]
    is_basic: bool = False
    """True if nothing after it can be measured unless it passes."""


def worst(findings: Iterable[Finding]) -> Finding:
    """The finding that is furthest beyond its limit, or nearest to it; NaN before all."""

    def badness(finding: Finding) -> float:
        scale = max(finding.limit, 1e-30)
        return float("inf") if isnan(finding.difference) else finding.difference / scale

    return max(findings, key=badness)


def apart(right: Tensor, found: Tensor, floor: float = 0.0) -> float:
    """max|a - b| / max|a|, or / floor where that is larger; NaN if one of them has a NaN."""
    if right.shape != found.shape:
        return float("inf")
    if not right.numel():
        return 0.0
    right, found = right.detach(), found.detach()
    gap = float((right - found).abs().max())
    scale = max(float(right.abs().max()), floor)
    return gap / scale if scale else gap


def gradients_apart(
    right: Mapping[str, Tensor], found: Mapping[str, Tensor], *, least: float = 1e-3
) -> Finding:
    """The parameter whose gradients differ most.

    A gradient of less than a thousandth (`least`) of the largest is measured against that: where
    the exact gradient is zero (a bias before a softmax, say), all of it is rounding.
    """
    floor = least * max(float(gradient.abs().max()) for gradient in right.values())
    return worst(
        Finding(apart(right[name], found[name], floor), note=f"the gradient of {name} differs")
        for name in right
    )


def values_apart(right: Mapping[str, float], found: Mapping[str, float]) -> Finding:
    """The value that differs most, relatively; two NaN (of nothing counted) are the same."""
    if right.keys() != found.keys():
        return Finding(float("inf"), note=f"{sorted(right)} and {sorted(found)}")
    return worst(
        Finding(
            _relative(right[name], found[name]),
            note=f"{name} is {found[name]:.6g} and should be {right[name]:.6g}",
        )
        for name in right
    )


def _relative(right: float, found: float) -> float:
    if found == right or (isnan(found) and isnan(right)):
        return 0.0
    return abs(found - right) / abs(right) if right else float("inf")


def rows_apart(right: list[Row], found: list[Row]) -> Finding:
    """Share of sequences that are missing, repeated or changed; none may be."""
    wanted, got = (Counter(map(repr, rows)) for rows in (right, found))
    missing, extra = (wanted - got).total(), (got - wanted).total()
    note = f"{missing} of {len(right)} sequences are missing, {extra} are there that should not be"
    return Finding((missing + extra) / max(1, len(right)), 0.0, note)
