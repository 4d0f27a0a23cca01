"""A door to training code that isn't ours: what the checks need of it, whatever its framework is.

All of it follows from what a `Framework` has.
"""

from abc import ABC
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everytoken.audit.check import gradients_apart
from everytoken.audit.foreign.batches import (
    Padding,
    Place,
    cut,
    filling,
    tensors,
    with_tensors,
)
from everytoken.audit.foreign.borrowed import trainable
from everytoken.audit.foreign.framework import Framework
from everytoken.audit.foreign.roles import place_of
from everytoken.audit.foreign.terms import (
    EXAMPLES,
    LOOKED_AT,
    NotApplicableError,
    Step,
    seeded,
)
from everytoken.batch import IGNORE_INDEX

LEARNED_STEPS, LEARNING_RATE = 6, 0.1
"""Steps that a model learns before it is audited; how far its largest gradient moves a weight."""


class Door(Framework, ABC):
    """What is audited, as the checks see it; each framework has one."""

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

    @cached_property
    def ignored(self) -> set[int]:
        """Labels that are no targets.

        Of a loss that can't read the usual one, what labels are padded with.
        """
        if self.settings.ignored is not None:
            return {*self.settings.ignored}
        usual = {IGNORE_INDEX}
        place = self.place("labels")
        if place is None or tensors(self.alone[0])[place].is_floating_point():
            return usual
        whole = self._together(range(len(self.examples)))
        padding = Padding.learned(self.alone, whole)
        fill = None if padding is None else padding.values.get(place)
        fills = self._unlearned - usual or ({int(fill)} - usual if fill is not None else set())
        if not fills:
            return usual
        labels = tensors(self.alone[-1])[place].clone()
        labels.view(len(labels), -1)[:, 0] = IGNORE_INDEX
        try:
            self.step([with_tensors(self.alone[-1], {place: labels})])
        except (IndexError, RuntimeError):  # out of bounds
            return fills
        return usual

    def targets(self, batch: Any) -> Tensor:
        """(B, T) or (B,) bool: where a batch has something to learn."""
        labels = tensors(batch)[self.labels]
        if labels.is_floating_point():
            return torch.ones(len(labels), dtype=torch.bool)
        return ~torch.isin(labels, torch.tensor([*self.ignored]))

    def only(self, batch: Any, row: int, column: int) -> Any:
        """A batch in which one label is left to learn."""
        labels = tensors(batch)[self.labels]
        alone = torch.full_like(labels, next(iter(self.ignored)))
        alone[row, column] = labels[row, column]
        return with_tensors(batch, {self.labels: alone})

    def without_first(self, batch: Any) -> Any:
        """A batch in which the first label of each row isn't learned."""
        labels = tensors(batch)[self.labels].clone()
        labels[:, 0] = next(iter(self.ignored))
        return with_tensors(batch, {self.labels: labels})

    has_classes = False
    """True if targets are classes, whose numbers may be those of tokens by chance."""

    @property
    def may_lack_targets(self) -> bool:
        """True if some of the examples' own labels aren't learned: then all of a few may not be."""
        return any(not bool(self.targets(batch).all()) for batch in self.alone)

    def learn(self) -> None:
        """Go a little way down the loss, so that metrics of what is right aren't all zero."""
        named = trainable(self.model)
        batch = self.batch(range(len(self.examples)))
        for _ in range(LEARNED_STEPS):
            gradients = self.step([batch]).gradients
            largest = max((float(g.abs().max()) for g in gradients.values()), default=0.0)
            if not 0 < largest < float("inf"):
                return
            with torch.no_grad():
                for name, gradient in gradients.items():
                    named[name] -= LEARNING_RATE / largest * gradient

    @cached_property
    def whole(self) -> Step:
        """The step over all examples as one micro-batch."""
        return self.step([self.batch(range(len(self.examples)))])

    @cached_property
    def singles(self) -> list[Step]:
        """A step over each example alone, without padding."""
        return [self.step([batch]) for batch in self.alone]

    @cached_property
    def counts(self) -> list[int]:
        """Targets of each example.

        A model that takes its inputs as labels shifts them: then a first label is no target. Of
        both ways to count the one is taken that explains more of a step.
        """
        every = [self.targets(batch) for batch in self.alone]
        counts = [int(mask.sum()) for mask in every]
        if every[0].ndim < 2:
            return counts
        shifted = [int(mask[:, 1:].sum()) for mask in every]

        def distance(some: list[int]) -> float:
            found = gradients_apart(self.mean_of(some).gradients, self.whole.gradients)
            return found.difference

        both = [some for some in (counts, shifted) if sum(some)]
        if not both:
            raise NotApplicableError("no example has a target")
        return min(both, key=distance)

    @property
    def is_shifted(self) -> bool:
        """True if first labels aren't learned, though they are there."""
        return self.counts != [int(self.targets(batch).sum()) for batch in self.alone]

    @cached_property
    def truth(self) -> Step:
        """The step as it should be: the mean over target tokens, one example at a time."""
        return self.mean_of(self.counts)

    def mean_of(self, weights: Sequence[int]) -> Step:
        """The examples' steps, weighed."""
        total = sum(weights)
        pairs = [(step, w / total) for step, w in zip(self.singles, weights, strict=True) if w]
        gradients = {
            name: torch.stack([step.gradients[name] * w for step, w in pairs]).sum(0)
            for name in pairs[0][0].gradients
        }
        losses = [step.losses for step, _ in pairs]
        known = all(losses)
        loss = sum(own[0] * w for own, (_, w) in zip(losses, pairs, strict=True)) if known else None
        return Step(gradients, [] if loss is None else [loss])

    @property
    def eos_id(self) -> int | None:
        """The end-of-sequence token, if anything says which it is."""
        config = getattr(self.model, "config", None)
        text = getattr(config, "get_text_config", lambda: config)()
        for given in (
            self.settings.eos_id,
            getattr(self.tokenizer, "eos_token_id", None),
            getattr(text, "eos_token_id", None),
        ):
            if given is not None:
                return given[0] if isinstance(given, list) else int(given)
        return None
