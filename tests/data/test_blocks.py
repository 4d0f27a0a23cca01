"""An order in two levels: each example once, those of few blocks at a time."""

import numpy as np
import pytest

from everytoken.data.blocks import ShuffledBlocks

SIZES = [(1, 1, 1), (7, 3, 2), (100, 10, 4), (101, 10, 1), (1000, 7, 16), (50, 100, 3)]


@pytest.mark.parametrize(("count", "block", "together"), SIZES)
def test_each_example_comes_once(count: int, block: int, together: int):
    order = ShuffledBlocks(count, block, together)(3, 1)[0:count]
    assert sorted(order.tolist()) == [*range(count)]


@pytest.mark.parametrize(("count", "block", "together"), SIZES)
def test_what_is_computed_is_what_is_in_memory(count: int, block: int, together: int):
    whole = ShuffledBlocks(count, block, together)(3, 1)
    computed = ShuffledBlocks(count, block, together, large=0)(3, 1)
    assert len(computed) == count
    assert computed[0:count].tolist() == whole[0:count].tolist()
    for begin in range(0, count, 13):
        assert computed[begin : begin + 29].tolist() == whole[begin : begin + 29].tolist()


def test_few_blocks_at_a_time_are_read():
    order = ShuffledBlocks(1000, 10, 5)(3, 1)[0:1000]
    pools = [{*part.tolist()} for part in np.split(order // 10, 20)]
    assert all(len(pool) == 5 for pool in pools)
    assert len({block for pool in pools for block in pool}) == 100
    assert order[:50].tolist() != sorted(order[:50].tolist())


def test_seed_and_epoch_decide_the_order():
    order = ShuffledBlocks(1000, 10, 5)
    orders = {tuple(order(seed, epoch)[0:1000].tolist()) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4
    assert order(1, 1)[0:1000].tolist() == order(1, 1)[0:1000].tolist()
