"""Learning-rate schedules over a known number of optimizer steps."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(
    optimizer: Optimizer, total_steps: int, warmup_fraction: float, final_fraction: float
) -> LambdaLR:
    """Rise linearly, then fall along half a cosine (Loshchilov and Hutter 2017, eq. 5).

    Args:
        optimizer: its learning rate is the peak.
        total_steps: optimizer steps of the run.
        warmup_fraction: part of the steps that rise, 0 to 1.
        final_fraction: last learning rate as part of the peak, 0 to 1.
    """
    warmup = max(1, round(warmup_fraction * total_steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step + 1 - warmup) / max(1, total_steps - warmup))
        return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def constant(optimizer: Optimizer, total_steps: int, warmup_fraction: float = 0.0) -> LambdaLR:
    """Rise linearly, then stay.

    Args:
        optimizer: its learning rate is the peak.
        total_steps: optimizer steps of the run.
        warmup_fraction: part of the steps that rise, 0 to 1.
    """
    warmup = max(1, round(warmup_fraction * total_steps))
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
