"""Losses of one's own with a fault each, for the audit to find."""

from torch import Tensor
from torch.nn import functional as F

from everytoken.batch import Batch
from everytoken.training import TargetSums, TokenModule


class Own(TokenModule):
    """The square of each token's cross-entropy, and no fault."""

    def target_sums(
        self, batch: Batch, label_smoothing: float = 0.0, z_loss: float = 0.0
    ) -> TargetSums:
        logits = self.head(self.hidden(batch))
        losses = F.cross_entropy(
            logits, batch.targets, label_smoothing=label_smoothing, reduction="none"
        )
        return self.add_up(losses**2, logits, batch)

    def add_up(self, losses: Tensor, logits: Tensor, batch: Batch) -> TargetSums:
        return TargetSums.of(losses, logits, batch.targets)


class MeanOfMicroBatch(Own):
    def add_up(self, losses: Tensor, logits: Tensor, batch: Batch) -> TargetSums:
        return super().add_up(losses / max(1, batch.target_count), logits, batch)


class MeanOfSequence(Own):
    def add_up(self, losses: Tensor, logits: Tensor, batch: Batch) -> TargetSums:
        counts = batch.is_target.sum(1, keepdim=True).expand_as(batch.labels)[batch.is_target]
        return super().add_up(losses / counts, logits, batch)


class AnIdIsIgnored(Own):
    def add_up(self, losses: Tensor, logits: Tensor, batch: Batch) -> TargetSums:
        return super().add_up(losses * (batch.targets != 7), logits, batch)


class DependsOnPadding(Own):
    def add_up(self, losses: Tensor, logits: Tensor, batch: Batch) -> TargetSums:
        share = batch.unpadded_count / batch.padded_count
        return super().add_up(losses * share, logits, batch)
