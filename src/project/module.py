"""A loss of one's own: the focal loss (Lin et al. 2017, arXiv 1708.02002, equation 4)."""

from typing import Any

from torch.nn import functional as F

from everytoken import Batch
from everytoken.training import TargetSums, TokenModule


class FocalModule(TokenModule):
    """Trains with -(1 - p)^gamma log p, p being the probability of the right token.

    Tokens that are predicted well already count for less. Logits (M, V) of a micro-batch exist all
    at once: lower `data.microbatch_tokens` where that is too much.

    Args:
        gamma: 0 is the cross-entropy; the larger, the less counts what is predicted well.
        parts: see `TokenModule`.

    Raises:
        ValueError: gamma is negative.
    """

    def __init__(self, *, gamma: float, **parts: Any) -> None:
        super().__init__(**parts)
        if gamma < 0:
            raise ValueError(f"gamma must be at least 0, got {gamma}")
        self.gamma = gamma

    def target_sums(
        self, batch: Batch, label_smoothing: float = 0.0, z_loss: float = 0.0
    ) -> TargetSums:
        """Loss and hits over the target tokens of a micro-batch: sums, which the step divides."""
        targets = batch.targets  # (M,)
        logits = self.head(self.hidden(batch)).float()  # (M, V)
        losses = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")
        log_p = -F.cross_entropy(logits, targets, reduction="none")
        others = -log_p.expm1()  # 1 - p, exact also where p is nearly 1
        losses = others.clamp(min=1e-12) ** self.gamma * losses  # the slope of a root of 0 is NaN
        if z_loss:
            losses = losses + z_loss * logits.logsumexp(-1) ** 2
        return TargetSums.of(losses, logits, targets)
