"""What a target's loss depends on, measured by the gradients of a step that learns nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from everytoken.audit.foreign.batches import tensors
from everytoken.audit.foreign.door import Door
from everytoken.audit.foreign.terms import NotApplicableError

LOOKED_AT = (1, 3)
"""Which of a door's examples, which begin with the shortest."""


class Influence:
    """How strongly the losses of some targets depend on each token that the model reads.

    Of a model with encoder and decoder the tokens are those that its decoder reads, which the
    targets are among.
    """

    def __init__(self, door: Door) -> None:
        self.door = door
        last = len(door.examples) - 1
        self.indices = sorted({min(i, last) for i in LOOKED_AT})
        self.batch = door.batch(self.indices)
        found = tensors(self.batch)
        self.labels = found[door.labels]
        self.inputs = found[door.inputs]
        if self.labels.ndim != 2 or self.labels.is_floating_point():
            raise NotApplicableError(
                "its targets are no tokens: labels have no place in a sequence"
            )
        with lookups(door.model) as looked_up:
            door.step([self.batch])
        self.ids = [ids for ids, _ in looked_up]
        self.is_real = self._is_real(door)
        read = [i for i, ids in enumerate(self.ids) if self._same(ids, self.inputs)]
        if not read:
            raise NotApplicableError("the model looks its inputs up in no nn.Embedding")
        self.own = read[0]
        decoder = [i for i, ids in enumerate(self.ids) if self._follows(ids)]
        self.stream = decoder[0] if decoder else self.own
        """Which look-up has what was read before each target."""

    @classmethod
    def of(cls, door: Door) -> "Influence":
        """A door's, measured once."""
        found = vars(door).get("influence")
        if not isinstance(found, Influence):
            found = vars(door)["influence"] = cls(door)
        return found

    def _is_real(self, door: Door) -> Tensor:
        """(B, T) bool: where the inputs are no padding."""
        real = torch.ones_like(self.inputs, dtype=torch.bool)
        if door.padding is not None and not door.is_flat:
            width = real.shape[1]
            for row, index in zip(real, self.indices, strict=True):
                own = tensors(door.alone[index])[door.inputs].shape[1]
                row[slice(own, width) if door.padding.side == "right" else slice(width - own)] = 0
        return real

    def _same(self, ids: Tensor, inputs: Tensor) -> bool:
        """True if a look-up is of the inputs, or of those that are no padding."""
        if ids.shape == inputs.shape:
            return torch.equal(ids, inputs)
        return torch.equal(ids.flatten(), inputs[self.is_real])

    def _follows(self, ids: Tensor) -> bool:
        """True if a look-up is of the targets, one place on: what a decoder reads."""
        if ids.shape != self.labels.shape or self._same(ids, self.inputs):
            return False
        return self._share(ids, 1) > 0.5

    def _share(self, ids: Tensor, shift: int) -> float:
        """Share of targets that stand in the input at their own place, or so many on."""
        width = max(0, min(ids.shape[1], self.labels.shape[1]) - shift)
        is_target = self.door.targets(self.batch)[:, :width]
        equal = self.labels[:, :width] == ids[:, shift : shift + width]
        return float(equal[is_target].double().mean()) if is_target.any() else 0.0

    @cached_property
    def shares(self) -> list[float]:
        """Of targets that are the token at their own place, the next, and the one after that."""
        ids = self.inputs if self.stream == self.own else self.ids[self.stream]
        return [self._share(ids, shift) for shift in (0, 1, 2)]

    @property
    def shift(self) -> int | None:
        """How far behind its label a target stands in the input; None if it doesn't."""
        if self.door.has_classes:
            return None
        best = max((1, 0, 2), key=lambda shift: self.shares[shift])
        return best if self.shares[best] >= 0.5 else None

    @property
    def loss_shifts(self) -> bool:
        """True if labels are the inputs themselves: then the loss must shift them."""
        return self.shift == 0 and self.stream == self.own

    @cached_property
    def documents(self) -> Tensor | None:
        """(B, T) number of the document that a token is of; None if each row is one."""
        rows, width = self.inputs.shape
        numbers = torch.zeros(rows, width, dtype=torch.long)
        if self.door.is_flat:
            widths = [tensors(self.door.alone[i])[self.door.inputs].shape[1] for i in self.indices]
            _count(numbers[0], widths)
        lengths = [self._lengths(i) for i in self.indices]
        if all(lengths):
            if self.door.is_flat:
                _count(numbers[0], [n for own in lengths for n in own])
            else:
                for row, own in zip(numbers, lengths, strict=True):
                    _count(row, own)
        positions = self.door.place("positions", self.batch)
        if positions is not None and not all(lengths):
            found = tensors(self.batch)[positions]
            if found.shape == numbers.shape:
                starts = (found == 0) & (found.roll(-1, 1) != 0)
                numbers = torch.maximum(numbers, starts.long().cumsum(1) - 1)
        return numbers if numbers.any() else None

    @cached_property
    def ended(self) -> Tensor | None:
        """The same by the end-of-sequence tokens in the middle of rows; None if there are none."""
        eos = self.door.eos_id
        if eos is None or self.shift is None or self.stream != self.own:
            return None
        ends = (self.inputs == eos) & self.is_real
        numbers = ends.long().cumsum(1) - ends.long()  # an end is its document's
        inside = numbers[self.is_real]
        return numbers if bool((inside > 0).any()) else None

    def _lengths(self, index: int) -> list[int]:
        example = self.door.examples[index]
        found = example.get("seq_lengths") if isinstance(example, dict) else None
        return [] if found is None else [int(n) for n in found]

    @cached_property
    def targets(self) -> list[tuple[int, int]]:
        """Rows and columns of some targets: the first, the last, some between, of each document."""
        chosen: list[tuple[int, int]] = []
        is_target = self.door.targets(self.batch).clone()
        if self.loss_shifts:
            is_target[:, 0] = False  # nothing was read before it
        numbers = self.documents
        for row, columns in enumerate(is_target):
            own = columns if numbers is None else columns * (numbers[row][: len(columns)] + 1)
            for number in own.unique().tolist():
                places = (own == number).nonzero().flatten().tolist()
                if number:
                    some = {places[0], places[len(places) // 2], places[-1], places[:2][-1]}
                    chosen += [(row, place) for place in sorted(some)]
        if not chosen:
            raise NotApplicableError("no example has a target")
        return chosen[:12]

    @cached_property
    def strengths(self) -> list[tuple[Tensor, Tensor]]:
        """For each of `targets`, of (B, T) read tokens and of (B, S) inputs; the largest is 1."""
        found = []
        for row, column in self.targets:
            with lookups(self.door.model) as looked_up:
                self.door.step([self.door.only(self.batch, row, column)])
            grids = [self._grid(_strength(looked_up[i][1])) for i in (self.stream, self.own)]
            largest = max(float(grid.max()) for grid in grids)
            if not largest < float("inf"):
                raise ValueError(f"one target alone, of row {row + 1}: its gradient is {largest}")
            scale = max(largest, 1e-300)
            found.append((grids[0] / scale, grids[1] / scale))
        return found

    def _grid(self, strength: Tensor) -> Tensor:
        """(B, T) of what a model reads without padding."""
        if strength.ndim == 2 and len(strength) == len(self.inputs):
            return strength
        grid = torch.zeros(self.inputs.shape, dtype=strength.dtype)
        grid[self.is_real] = strength.flatten()
        return grid


def _strength(leaf: Tensor) -> Tensor:
    gradient = leaf.grad
    return torch.zeros(leaf.shape[:-1]) if gradient is None else gradient.double().abs().sum(-1)


def _count(row: Tensor, lengths: list[int]) -> None:
    first = 0
    for number, length in enumerate(lengths):
        row[first : first + length] = number
        first += length


@contextmanager
def lookups(model: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collects ids and embeddings of each look-up of rows of ids; gradients end there."""
    found: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, ids: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not ids or not isinstance(ids[0], Tensor) or not torch.is_grad_enabled():
            return None  # positions of a shape, say
        leaf = output.detach().requires_grad_()
        found.append((ids[0], leaf))
        return leaf

    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    hooks = [table.register_forward_hook(keep) for table in tables]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
