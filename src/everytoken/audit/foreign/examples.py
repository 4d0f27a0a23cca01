"""Examples of a framework's training data, alone and in batches, and which tensor of them is what.

All of it follows from what a `Framework` has.
"""

from abc import ABC
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from everytoken.audit.foreign.batches import (
    Padding,
    Place,
    cut,
    filling,
    tensors,
)
from everytoken.audit.foreign.framework import Framework
from everytoken.audit.foreign.roles import place_of
from everytoken.audit.foreign.terms import (
    EXAMPLES,
    LOOKED_AT,
    NotApplicableError,
    seeded,
)
from everytoken.batch import IGNORE_INDEX
from everytoken.errors import UserError


class Examples(Framework, ABC):
    """Some of the training data, as the checks see it."""

    @cached_property
    def examples(self) -> list[Any]:
        """Some of the training data, as unequal in length as there are, shortest first."""
        found = list(self._examples)[:LOOKED_AT]
        widths = [self._width(example) for example in found]
        order = sorted(range(len(found)), key=lambda i: widths[i])
        order = order[: max(EXAMPLES, -(-3 * len(order) // 4))]  # the longest take long
        places = np.linspace(0, len(order) - 1, min(EXAMPLES, len(order))).astype(int)
        return [found[order[place]] for place in places]

    def _width(self, example: Any) -> int:
        single = tensors(self._single(example))
        return sum(t.shape[1] for t in single.values() if t.ndim > 1)

    def _single(self, example: Any) -> Any:
        with seeded():
            batch = self.collate([example])
        if not tensors(batch):
            raise UserError(f"a batch is a {type(batch).__name__} in which no tensor was found")
        return cut(batch, self.place("mask", batch), self.place("labels", batch), self._unlearned)

    @cached_property
    def _unlearned(self) -> set[int]:
        """Labels that may stand where the mask says padding, so that it is cut off.

        Beside those that are ignored the one that each example has there: then the collate fills
        all up to one width.
        """
        known = {IGNORE_INDEX} if self.settings.ignored is None else {*self.settings.ignored}
        with seeded():
            batches = [self.collate([example]) for example in list(self._examples)[:EXAMPLES]]
        outside = [
            filling(batch, self.place("mask", batch), self.place("labels", batch))
            for batch in batches
        ]
        some = [labels for labels in outside if labels is not None]
        values = {label for labels in some for label in labels}
        wide = len(some) > len(outside) / 2 and max(map(len, some), default=0) > 1
        return known | (values if wide and len(values) == 1 else set())

    @cached_property
    def alone(self) -> list[Any]:
        """A batch of each example, without padding."""
        return [self._single(example) for example in self.examples]

    @cached_property
    def padding(self) -> Padding | None:
        """How the collate pads; None if that can't be told."""
        return Padding.learned(self.alone, self._together(range(len(self.examples))))

    def _together(self, indices: Sequence[int]) -> Any:
        with seeded():
            return self.collate([self.examples[i] for i in indices])

    def padded(self, padding: Padding, alone: Sequence[Any], **other: Any) -> Any:
        """A batch of all examples, each given alone, padded in another way; see `joined`."""
        return padding.joined(self.batch(range(len(alone))), alone, **other)

    @property
    def tells_padding(self) -> bool:
        """True if a batch says which of its positions are padding, wherever they are."""
        return self.place("mask") is not None

    pads_both_sides = False
    """True if padding on the side that the collate doesn't use is promised to be right too."""

    @cached_property
    def is_random(self) -> bool:
        """True if the collate draws something anew each time, as masked LMs do."""
        with seeded(1):
            again = self.collate(self.examples)
        first, second = tensors(self._together(range(len(self.examples)))), tensors(again)
        return first.keys() != second.keys() or any(
            not torch.equal(first[place], second[place]) for place in first
        )

    def batch(self, indices: Sequence[int]) -> Any:
        """Examples as the user's collate puts them together.

        Of one that draws at random, as they were drawn alone.
        """
        together = self._together(indices)
        if self.is_random and self.padding is not None:
            return self.padding.joined(together, [self.alone[i] for i in indices])
        return together

    def copies(self, index: int, count: int) -> Any:
        """A batch of one example, so many times."""
        together = self._together([index] * count)
        if self.is_random and self.padding is not None:
            return self.padding.joined(together, [self.alone[index]] * count)
        return together

    @cached_property
    def is_flat(self) -> bool:
        """True if the collate puts all examples into one row, without padding."""
        if len(self.alone) < 2 or self.place("inputs") is None:
            return False
        whole = tensors(self._together(range(len(self.examples))))[self.inputs]
        widths = [tensors(batch)[self.inputs].shape[1] for batch in self.alone]
        return len(whole) == 1 and whole.shape[1] >= sum(widths)

    def place(self, role: str, batch: Any = None) -> Place | None:
        """Where the tensor of a role is in a batch; None if it can't be recognised."""
        return place_of(role, self.alone[0] if batch is None else batch, self.settings.fields)

    @property
    def inputs(self) -> Place:
        """Where the ids are that the model reads.

        Raises:
            NotApplicableError: they can't be recognised.
        """
        return self._needed("inputs")

    @property
    def labels(self) -> Place:
        """Where the labels are; errors as of `inputs`."""
        return self._needed("labels")

    def _needed(self, role: str) -> Place:
        place = self.place(role)
        if place is None:
            raise NotApplicableError(
                f"nothing says which tensor of a batch holds its {role}: "
                f'give fields={{"{role}": KEY}}'
            )
        return place
