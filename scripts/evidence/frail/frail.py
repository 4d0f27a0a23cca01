"""A model that is hard to resume: a buffer of its own on each rank, and steps that give NaN."""

from typing import Any

import torch
from torch import Tensor

from everytoken import Batch
from everytoken.model import Transformer


class Frail(Transformer):
    """A Transformer that adds a running mean, which training changes without a gradient.

    Args:
        nan_every: micro-batches whose real tokens are a multiple of this many give NaN.
        sizes: of the Transformer.
    """

    mean: Tensor

    def __init__(self, nan_every: int, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.nan_every = nan_every
        self.register_buffer("mean", torch.zeros(sizes["width"]))

    def forward(self, batch: Batch) -> Tensor:
        """Hidden states (M, D) of the target tokens."""
        hidden = super().forward(batch)
        if self.training and batch.target_count:
            if batch.real_count % self.nan_every == 0:
                hidden = hidden * torch.nan
            self.mean.lerp_(hidden.detach().float().mean(0), 0.1)
        return hidden + self.mean
