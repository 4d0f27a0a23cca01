"""All that evaluation counts on a split: loss, accuracy and what else was asked for."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from everytoken.errors import UserError
from everytoken.training.loss import TargetSums
from everytoken.training.metrics import (
    BitsPerByte,
    ExactMatch,
    HitRate,
    MeanLoss,
    Perplexity,
    Ratio,
)
from everytoken.training.sequence_metric import SequenceMetric
from everytoken.training.text_metrics import TextMetric

OF_ROWS = (TextMetric, SequenceMetric)
"""Kinds of metrics that aren't updated with logits."""


class EvaluationMetrics(nn.Module):
    """What evaluation counts on one split.

    Args:
        more: further metrics by name; copied.
        generates: True to compare generated sequences with their references too.
        counts_bytes: True to count bits per byte.

    Raises:
        ValueError: a metric of texts, and no generation.
    """

    def __init__(
        self,
        more: Mapping[str, Metric],
        *,
        generates: bool,
        counts_bytes: bool = False,
    ) -> None:
        super().__init__()
        for name, metric in more.items():
            if not isinstance(metric, Metric):
                raise ValueError(f"metrics.{name} is a {type(metric).__name__} and no Metric")
        of_texts = [name for name, metric in more.items() if isinstance(metric, TextMetric)]
        if of_texts and not generates:
            raise ValueError(
                f"metrics.{of_texts[0]} compares generated texts and nothing is generated: "
                "set task.max_new_tokens, or leave the metric out"
            )
        self.more = nn.ModuleDict({name: metric.clone() for name, metric in more.items()})
        self.loss: Ratio = MeanLoss()
        self.accuracy: Ratio = HitRate()
        self.exact_match = ExactMatch() if generates else None
        self.cut_off = Ratio()
        """Share of the answers that had no end where they were cut off; not one of the values."""
        self.bits_per_byte = BitsPerByte() if counts_bytes else None
        if twice := [name for name in self._further if self._further.count(name) > 1]:
            raise ValueError(f"two metrics are called {twice[0]}: give one of them another name")

    def add_up_over(self, group: Any) -> None:
        """Say which ranks count different examples: a process group, or None for all."""
        for metric in self.modules():
            if isinstance(metric, Metric):
                metric.process_group = group

    def update_sums(self, sums: TargetSums, target_count: int, byte_count: int | None) -> None:
        """Count loss and hits of target tokens, and bytes that they stand for, if it is known."""
        self.loss.update(sums.loss, target_count)
        self.accuracy.update(sums.correct, target_count)
        if self.bits_per_byte is not None and byte_count is not None:
            self.bits_per_byte.update(sums.loss, byte_count)

    def update_tokens(self, logits: Tensor, targets: Tensor) -> None:
        """Count logits (M, V) and targets (M,) of target tokens, in the further metrics.

        Raises:
            UserError: with the metric that refuses them.
        """
        for name, metric in self.more.items():
            if isinstance(metric, Metric) and not isinstance(metric, OF_ROWS):
                try:
                    metric.update(logits, targets)
                except ValueError as error:
                    raise UserError(
                        f"metrics.{name} ({type(metric).__name__}) can't count what this task "
                        f"predicts: {error}: leave it out, or change its arguments"
                    ) from error

    def update_sequences(self, predictions: list[list[int]], targets: list[list[int]]) -> None:
        """Count what is predicted at the targets of each sequence."""
        for metric in self.more.values():
            if isinstance(metric, SequenceMetric):
                metric.update(predictions, targets)

    def update_texts(self, predictions: list[str], references: list[str]) -> None:
        """Count generated texts."""
        if self.exact_match is not None:
            self.exact_match.update(predictions, references)
        for metric in self.more.values():
            if isinstance(metric, TextMetric):
                metric.update(predictions, references)

    @property
    def reads_logits(self) -> bool:
        """True if a further metric is one of target tokens."""
        return any(not isinstance(metric, OF_ROWS) for metric in self.more.values())

    @property
    def reads_sequences(self) -> bool:
        """True if a further metric is one of sequences."""
        return any(isinstance(metric, SequenceMetric) for metric in self.more.values())

    @property
    def names(self) -> list[str]:
        """Of the metrics, as `values` has them."""
        names = ["loss", "accuracy", "perplexity"]
        if self.bits_per_byte is not None:
            names.append("bits_per_byte")
        if self.exact_match is not None:
            names.append("exact_match")
        return names + self._further

    @property
    def _further(self) -> list[str]:
        found: list[str] = []
        for name, metric in self.more.items():
            found += metric.names if isinstance(metric, SequenceMetric) else [name]
        return found

    def higher_is_better(self, name: str) -> bool | None:
        """Which way a metric improves, as it says itself; None if it doesn't say.

        Args:
            name: one of `names`.
        """
        if name == "perplexity":  # made of the loss
            return Perplexity.higher_is_better
        several = [m for m in self.more.values() if isinstance(m, SequenceMetric)]
        metric = next((m for m in several if name in m.names), None) or (
            self.more[name] if name in self.more else getattr(self, name)
        )
        higher = getattr(metric, "higher_is_better", None)
        return higher if isinstance(higher, bool) else None  # a wrapper may say it of several

    def values(self) -> dict[str, Tensor]:
        """The metrics by name, each (), over all ranks.

        Raises:
            UserError: a further metric gives something else than one number.
        """
        loss = self.loss.compute()
        values = {"loss": loss, "accuracy": self.accuracy.compute(), "perplexity": loss.exp()}
        if self.bits_per_byte is not None:
            values["bits_per_byte"] = self.bits_per_byte.compute()
        if self.exact_match is not None:
            values["exact_match"] = self.exact_match.compute()
        for name, metric in self.more.items():
            assert isinstance(metric, Metric)
            value = metric.compute()
            if isinstance(metric, SequenceMetric):
                values |= value
                continue
            if not isinstance(value, Tensor | int | float) or torch.as_tensor(value).numel() != 1:
                raise UserError(
                    f"metrics.{name} ({type(metric).__name__}) gives {value!r:.60}, and only one "
                    "number can be logged: let its compute() return a Tensor of shape ()"
                )
            values[name] = torch.as_tensor(value).reshape(())
        return values

    def details(self) -> dict[str, Any]:
        """What metrics have to show besides: plain values, of what `values` gave."""
        found: dict[str, Any] = {}
        for metric in self.more.values():
            if details := getattr(metric, "details", None):
                found |= details()
        return found

    def reset(self) -> None:
        """Start from nothing."""
        for metric in self.modules():
            if isinstance(metric, Metric):
                metric.reset()
