"""Randomness in training (dropout, and what a fork draws) is a function of (seed, step, rank).

So a step can be replayed, and a run that was killed continues with the same randomness without any
generator's state in its checkpoints, after whatever else drew from the generators meanwhile.
"""

import random

import numpy as np
import torch


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed Python's, numpy's and torch's generators, on all devices, for one optimizer step.

    Args:
        seed: the run's.
        step: optimizer steps that were made before.
        rank: of this process; ranks must draw differently.
    """
    for_torch, for_others = np.random.SeedSequence((seed, step, rank)).generate_state(2)
    torch.manual_seed(int(for_torch))
    random.seed(int(for_others))
    np.random.seed(for_others)
