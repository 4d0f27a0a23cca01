"""How well each class is told apart: macro F1, and which classes are taken for which."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class MacroF1(Metric):
    """The mean of the F1 of all classes, 0 to 1: rare ones weigh as much as others.

    What is added over batches and ranks are the cells of a confusion matrix. A class that is
    neither predicted nor to be predicted has no F1, and isn't in the mean; NaN if none has one.

    Args:
        labels: names of the classes, by id.
    """

    higher_is_better = True
    full_state_update = False
    confusion: Tensor
    """(C, C) targets of each class (rows), by what was predicted."""

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__()
        self.labels = list(labels)
        zeros = torch.zeros(len(self.labels), len(self.labels), dtype=torch.int64)
        self.add_state("confusion", zeros, dist_reduce_fx="sum")
        self._cells: list[list[Any]] = []

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count logits (M, C) and targets (M,)."""
        size = len(self.labels)
        cells = targets * size + logits.argmax(-1)
        counts = torch.bincount(cells.flatten(), minlength=size * size)
        self.confusion += counts.view(size, size)

    def compute(self) -> Tensor:
        """() float64."""
        self._cells = self._named(self.confusion)
        hits, both = self.confusion.diagonal(), self.confusion.sum(0) + self.confusion.sum(1)
        return (2 * hits.double() / both)[both > 0].mean()

    def details(self) -> dict[str, Any]:
        """Of the last `compute`, of all ranks: [label, what was predicted, how often], by that."""
        return {"confusion": self._cells}

    def _named(self, confusion: Tensor) -> list[list[Any]]:
        places = confusion.nonzero()
        cells = zip(places.tolist(), confusion[tuple(places.T)].tolist(), strict=True)
        named = [[self.labels[row], self.labels[column], n] for (row, column), n in cells]
        return sorted(named, key=lambda cell: -cell[2])
