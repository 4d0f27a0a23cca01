"""A metric of one's own: how badly the worst target token was predicted."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric


class WorstLoss(Metric):
    """The largest loss of a target token in a whole evaluation, in nats."""

    higher_is_better = False
    full_state_update = False
    worst: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("worst", torch.zeros(()), dist_reduce_fx="max")  # over ranks: the largest

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count logits (M, V) and targets (M,) of a micro-batch: of target tokens, M above 0."""
        losses = F.cross_entropy(logits, targets, reduction="none")  # (M,)
        self.worst = torch.maximum(self.worst, losses.max())

    def compute(self) -> Tensor:
        """() float32, of everything that was counted since the last reset."""
        return self.worst
