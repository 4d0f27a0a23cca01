"""Chance in a step: the same when it is repeated, another in every other step and rank."""

import random

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everytoken.training.seeding import seed_step

NUMBERS = st.integers(0, 2**32 - 1)


def drawn(seed: int, step: int, rank: int) -> tuple[float, float, float]:
    seed_step(seed, step, rank)
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@settings(deadline=None)  # of a machine that does other things too
@given(NUMBERS, st.integers(0, 2**40), st.integers(0, 2**14), st.integers(1, 100))
def test_chance_is_a_function_of_seed_step_and_rank(seed: int, step: int, rank: int, draws: int):
    first = drawn(seed, step, rank)
    torch.rand(draws)
    np.random.rand(draws)
    random.random()
    assert drawn(seed, step, rank) == first


@settings(deadline=None)
@given(NUMBERS, st.integers(0, 2**40), st.integers(0, 2**14))
def test_other_seeds_steps_and_ranks_draw_something_else(seed: int, step: int, rank: int):
    found = {
        drawn(*place)
        for place in (
            (seed, step, rank),
            (seed + 1, step, rank),
            (seed, step + 1, rank),
            (seed, step, rank + 1),
            (seed, step + 1, rank + 1),
        )
    }
    assert len(found) == 5
    assert all(len({place[i] for place in found}) == 5 for i in range(2))
