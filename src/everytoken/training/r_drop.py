"""R-Drop: two passes over a batch, each with dropout of its own, should agree.

Wu et al. 2021, "R-Drop: Regularized Dropout for Neural Networks", arXiv 2106.14448, equation 4.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from everytoken.batch import Batch
from everytoken.model.precision import at_least_float32
from everytoken.training.loss import TargetSums, target_losses
from everytoken.training.module import TokenModule

CHUNK_LOGITS = 2**21
"""Logits of each pass that exist at a time, about."""


class RDropModule(TokenModule):
    """Trains with the mean loss of two passes, and how far apart their predictions are.

    A step costs about twice as much. Without dropout both passes are the same, and so the loss is
    what it is without this.

    Args:
        divergence: what the divergence counts, the paper's alpha: its equation, halved, is
            (loss 1 + loss 2) / 2 + alpha / 4 (KL(1 || 2) + KL(2 || 1)), at each target token.
        parts: see `TokenModule`.

    Raises:
        ValueError: divergence is negative.
    """

    def __init__(self, *, divergence: float, **parts: Any) -> None:
        super().__init__(**parts)
        if divergence < 0:
            raise ValueError(f"divergence must be at least 0, got {divergence}")
        self.divergence = divergence

    def target_sums(
        self, batch: Batch, label_smoothing: float = 0.0, z_loss: float = 0.0
    ) -> TargetSums:
        """Loss and hits over the target tokens of a micro-batch; hits are the first pass's."""
        passes = self.hidden(batch), self.hidden(batch)  # each (M, D)
        targets = batch.targets
        settings = (label_smoothing, z_loss, self.divergence)
        rows = max(1, CHUNK_LOGITS // self._width(passes[0]))
        parts = zip(*(tensor.split(rows) for tensor in (*passes, targets)), strict=True)
        # Of each part the logits are made anew for its gradient, and never exist all at once.
        sums = [
            checkpoint(
                _sums, self.head, *part, *settings, use_reentrant=False, preserve_rng_state=False
            )
            for part in parts
        ]
        loss, correct = (torch.stack(values).sum() for values in zip(*sums, strict=True))
        return TargetSums(loss, correct)

    def _width(self, hidden: Tensor) -> int:
        """V, or C of several classes: what the head makes of a row."""
        with torch.no_grad():
            return self.head(hidden[:1]).shape[-1]


def _sums(
    head: nn.Module,
    first: Tensor,
    second: Tensor,
    targets: Tensor,
    label_smoothing: float,
    z_loss: float,
    divergence: float,
) -> tuple[Tensor, Tensor]:
    """Loss () and hits () of two passes (m, D) over the same targets (m,) or (m, C)."""
    logits = [at_least_float32(head(hidden)) for hidden in (first, second)]
    losses = [target_losses(one, targets, label_smoothing, z_loss) for one in logits]
    apart = symmetric_divergence(*logits, several=targets.ndim == 2)
    both = sum(losses) / 2 + divergence / 4 * apart
    sums = TargetSums.of(both, logits[0], targets)
    return sums.loss, sums.correct


def symmetric_divergence(first: Tensor, second: Tensor, several: bool = False) -> Tensor:
    """KL(1 || 2) + KL(2 || 1) of what two rows of logits predict.

    As both are sums over the same classes, it is that of (p - q) (logit p - logit q): their
    normalizers cancel.

    Args:
        first: (M, V) floating point.
        second: (M, V).
        several: True if each of V is a yes or no by itself; then it is the mean over them.

    Returns:
        (M,)
    """
    if several:
        return ((first.sigmoid() - second.sigmoid()) * (first - second)).mean(-1)
    return ((first.softmax(-1) - second.softmax(-1)) * (first - second)).sum(-1)
