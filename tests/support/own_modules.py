"""Modules and models written outside the package, as a fork has them; some are wrong."""

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from everytoken.batch import Batch
from everytoken.model import Transformer
from everytoken.training import TargetSums, TokenModule


class Tempered(TokenModule):
    """Cross-entropy of logits that are divided by a temperature."""

    def __init__(self, *, temperature: float, **parts: Any) -> None:
        super().__init__(**parts)
        self.temperature = temperature

    def target_sums(
        self, batch: Batch, label_smoothing: float = 0.0, z_loss: float = 0.0
    ) -> TargetSums:
        logits = self.head(self.hidden(batch)).float()
        losses = F.cross_entropy(
            logits / self.temperature,
            batch.targets,
            label_smoothing=label_smoothing,
            reduction="none",
        )
        return TargetSums.of(losses, logits, batch.targets)


class MeanOfMicroBatch(Tempered):
    """A classic: what each micro-batch gives is its mean."""

    def target_sums(
        self, batch: Batch, label_smoothing: float = 0.0, z_loss: float = 0.0
    ) -> TargetSums:
        sums = super().target_sums(batch, label_smoothing, z_loss)
        return replace(sums, loss=sums.loss / max(1, batch.target_count))


class LostInEvaluation(Transformer):
    """Gives NaN wherever it isn't trained."""

    def forward(self, batch: Batch) -> Tensor:
        hidden = super().forward(batch)
        return hidden if self.training else hidden * float("nan")
