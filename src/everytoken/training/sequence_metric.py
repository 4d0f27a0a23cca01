"""Metrics of whole sequences of classes: what stands beside what counts."""

from abc import abstractmethod

from torch import Tensor
from torchmetrics import Metric


class SequenceMetric(Metric):
    """A metric of rows: for each sequence the classes at its targets, predicted and true.

    It may give several values.
    """

    names: list[str]
    """Of its values."""

    @abstractmethod
    def update(self, predictions: list[list[int]], targets: list[list[int]]) -> None:
        """Count sequences, each with a prediction for each of its targets."""

    @abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """Its values by name, each ()."""
