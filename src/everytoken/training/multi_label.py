"""How well classes are told of which a text may have several."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from torchmetrics.classification import MultilabelF1Score


class MultiLabelF1(MultilabelF1Score):
    """F1 of decisions, 0 to 1, from torchmetrics: a class that nothing is of, and nothing is told
    to be of, has 0, as in scikit-learn.

    Args:
        labels: names of the classes, by id.
        average: "micro" counts all decisions alike, "macro" is the mean over the classes.
        threshold: probability above which a class is told.
    """

    def __init__(
        self, labels: Sequence[str], average: Literal["micro", "macro"], threshold: float
    ) -> None:
        super().__init__(len(labels), threshold, average, validate_args=False)

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count logits (M, C) and targets (M, C) of 0 and 1."""
        # Of logits between 0 and 1 it would take them for probabilities.
        super().update(logits.sigmoid(), targets)
