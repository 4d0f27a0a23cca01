"""A door to training code that isn't ours: what the checks need of it, of any framework."""

from abc import ABC
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from everytoken.audit.check import ROUNDING, gradients_apart
from everytoken.audit.foreign.batches import (
    Padding,
    Place,
    tensors,
    with_tensors,
)
from everytoken.audit.foreign.borrowed import trainable
from everytoken.audit.foreign.examples import Examples
from everytoken.audit.foreign.terms import (
    NotApplicableError,
    Step,
)
from everytoken.batch import IGNORE_INDEX

LEARNED_STEPS, LEARNING_RATE = 6, 0.1
"""Steps that a model learns before it is audited; how far its largest gradient moves a weight."""


class Door(Examples, ABC):
    """What is audited, as the checks see it; each framework has one."""

    @cached_property
    def ignored(self) -> set[int]:
        """Labels that are no targets: -100, unless the loss can't read it.

        Then nanoGPT's -1, or what labels are padded with; none if it can read none of these.
        """
        if self.settings.ignored is not None:
            return {*self.settings.ignored}
        place = self.place("labels")
        if place is None or tensors(self.alone[0])[place].is_floating_point():
            return {IGNORE_INDEX}
        padding = Padding.learned(self.alone, self._together(range(len(self.examples))))
        fill = None if padding is None else padding.values.get(place)
        fills = {*self._unlearned, *(() if fill is None else (int(fill),))} - {IGNORE_INDEX}
        for label in (IGNORE_INDEX, -1, *fills, *self._repeated_at_the_end(place)):
            labels = tensors(self.alone[-1])[place].clone()
            labels.view(len(labels), -1)[:, 0] = label
            with suppress(IndexError, RuntimeError):  # out of bounds
                self.step([with_tensors(self.alone[-1], {place: labels})])
                return {label}
        return set()

    @property
    def ignored_label(self) -> int:
        """A label that is no target.

        Raises:
            NotApplicableError: none is known.
        """
        if not self.ignored:
            raise NotApplicableError("the loss reads no label as none: give ignored=(…,)")
        return next(iter(self.ignored))

    def _repeated_at_the_end(self, place: Place) -> set[int]:
        """The label with which rows of ready batches end, which are as wide as their longest."""
        rows = [tensors(batch)[place][0] for batch in self.alone]
        ends = {int(row[-1]) for row in rows if row.ndim and len(row) > 1 and row[-1] == row[-2]}
        return ends if len(ends) == 1 else set()

    def targets(self, batch: Any) -> Tensor:
        """(B, T) or (B,) bool: where a batch has something to learn."""
        labels = tensors(batch)[self.labels]
        if labels.is_floating_point():
            return torch.ones(len(labels), dtype=torch.bool)
        return ~torch.isin(labels, torch.tensor([*self.ignored], dtype=labels.dtype))

    def only(self, batch: Any, row: int, column: int) -> Any:
        """A batch in which one label is left to learn."""
        labels = tensors(batch)[self.labels]
        alone = torch.full_like(labels, self.ignored_label)
        alone[row, column] = labels[row, column]
        return with_tensors(batch, {self.labels: alone})

    def without_first(self, batch: Any) -> Any:
        """A batch in which the first label of each row isn't learned."""
        labels = tensors(batch)[self.labels].clone()
        labels[:, 0] = self.ignored_label
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
                    named[name].sub_(LEARNING_RATE / largest * gradient)

    @cached_property
    def uneven(self) -> list[list[int]]:
        """Examples in three micro-batches that weigh very differently.

        In two that weigh the same where others never come: all examples have as many targets, and
        all batches as many examples.
        """
        count = len(self.examples)
        sizes = {int(self.targets(batch).sum()) for batch in self.alone}
        if len(sizes) == 1 and not self.deals_short_batches and count % 2 == 0:
            return [[*range(count // 2)], [*range(count // 2, count)]]
        parts = [[0], [1, 2], [*range(3, count)]]
        return [[i for i in part if i < count] for part in parts if part and part[0] < count]

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

    @cached_property
    def truth(self) -> Step:
        """The step as it should be: the mean over target tokens, one example at a time."""
        found = self.mean_of(self.counts)
        if not self.sums_losses:
            return found
        return replace(found, losses=[self._summed / sum(self.counts)])

    @cached_property
    def sums_losses(self) -> bool:
        """True if what goes into a backward is a sum, and gradients are divided later."""
        if not self.whole.losses or not all(step.losses for step in self.singles):
            return False
        whole, mean = self.whole.losses[0], self.mean_of(self.counts).losses[0]
        return abs(whole / self._summed - 1) < ROUNDING < abs(whole / mean - 1)

    @property
    def _summed(self) -> float:
        return sum(step.losses[0] for step in self.singles)

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
