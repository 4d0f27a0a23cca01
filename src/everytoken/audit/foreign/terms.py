"""Words of the audit of foreign code: a step, what a user settles, what doesn't apply."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everytoken.audit.check import Finding, gradients_apart
from everytoken.errors import UserError

EXAMPLES = 8
"""Examples of a step: as many as 1 x 8, 4 x 2 and 8 x 1 have."""

LOOKED_AT = 64
"""Examples among which those are chosen."""

HELD_OUT = 7
"""Examples of an evaluation: a prime, so that there is always a short last batch."""


ROUNDING_OF_GRADIENTS = 2e-4
"""Relative difference that float32 may make of gradients; faults make more than 1e-3."""

LEAST_GRADIENT = 1e-2
"""Share of the largest gradient against which smaller ones are measured."""


class NotApplicableError(Exception):
    """A check asks for what isn't there; its text says what."""


@dataclass(frozen=True, eq=False)
class Step:
    """What a step or an evaluation did."""

    gradients: dict[str, Tensor] = field(default_factory=dict)
    """By parameter, as the optimizer got them; {} for an evaluation."""
    losses: list[float] = field(default_factory=list)
    """Of each micro-batch, as it went into its backward."""
    logged: dict[str, float] = field(default_factory=dict)
    """What was logged, by name."""


PRECISIONS = ("bf16", "fp16")


@dataclass(frozen=True)
class Settings:
    """What nothing in foreign code says for sure.

    Args:
        fields: which of a batch's tensors are the "inputs", "labels", "mask" and "positions", and
            which part of an example says what is "learned", by the key or the place that they have.
        causal: True if no target may see what comes after it, None if the data tells.
        ignored: labels that are no targets; None for -100, and what labels are padded with if
            it isn't learned.
        eos_id: the end-of-sequence token; None for what a tokenizer or a model's config says.
        tokenizer: of transformers, say, if the trainer has none; it tells what is learned.
        precision: that it is trained in, "bf16" or "fp16".
        isolated: True if documents that share a row, each with its end, may not see each other.
        layers: how many layers of each stack stay; None for all.
        processes: False to start none.
        resume: False not to train, break off and go on.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    causal: bool | None = None
    ignored: Sequence[int] | None = None
    eos_id: int | None = None
    tokenizer: Any = None
    precision: str = "bf16"
    isolated: bool = False
    layers: int | None = None
    processes: bool = True
    resume: bool = True

    def __post_init__(self) -> None:
        if self.layers is not None and self.layers < 1:
            raise UserError(f"layers={self.layers}: leave 1 or more")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision={self.precision}: give {' or '.join(PRECISIONS)}")


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """All random numbers begin alike; afterwards they go on as if nothing had been."""
    kept = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        random.setstate(kept[1])
        np.random.set_state(kept[2])


def not_applicable(reason: object) -> Finding:
    """A check that asks nothing here."""
    return Finding(0.0, note=str(reason), applies=False)


def spread(length: int, count: int) -> list[int]:
    """So many places of a dataset, from its first to its last."""
    return np.unique(np.linspace(0, length - 1, min(length, count)).astype(int)).tolist()


def gradients_of(right: Step, found: Step) -> Finding:
    """The parameter whose gradients differ most."""
    finding = gradients_apart(right.gradients, found.gradients, least=LEAST_GRADIENT)
    return finding._replace(limit=ROUNDING_OF_GRADIENTS)
