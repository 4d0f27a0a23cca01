"""A computed order is a shuffle: each number once, all places alike, neighbours strangers."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everytoken.data.bijection import Bijection
from everytoken.data.order import LARGE, Shuffled

BILLION = 10**9


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 9), st.integers(0, 9), st.data())
def test_each_number_comes_once_and_any_window_is_a_part(
    count: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    order = Bijection(count, [seed, epoch])
    whole = order[0:count]
    assert len(order) == count
    assert sorted(whole.tolist()) == list(range(count))
    begin, end = sorted(data.draw(st.tuples(st.integers(0, count), st.integers(0, count))))
    assert order[begin:end].tolist() == whole[begin:end].tolist()
    assert order.at(np.array([count - 1, 0])).tolist() == [whole[-1], whole[0]]


def deviation(found: np.ndarray, expected: float) -> float:
    """Chi-square over its mean, which is 1 for counts of random events."""
    return float(((found - expected) ** 2 / expected).mean())


def test_every_number_is_as_likely_in_every_place() -> None:
    count, times = 37, 2000
    orders = np.array([Bijection(count, [1, key])[0:count] for key in range(times)])
    counts = np.zeros((count, count))
    np.add.at(counts, (np.broadcast_to(np.arange(count), orders.shape), orders), 1)
    assert deviation(counts, times / count) == pytest.approx(1, abs=0.2)
    pairs = np.zeros((count, count))
    np.add.at(pairs, (orders[:, :-1], orders[:, 1:]), 1)
    apart = pairs[~np.eye(count, dtype=bool)]
    assert deviation(apart, apart.mean()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("count", [LARGE + 1, 3 * LARGE - 7, BILLION])
@pytest.mark.parametrize("begin", [0, 12_345_678])
def test_large_orders_look_random(count: int, begin: int) -> None:
    """Bounds of four standard deviations and more; the key is fixed, so nothing is left to luck."""
    many = 200_000
    order = Bijection(count, [7, 0])[begin : begin + many]
    assert len(np.unique(order)) == many
    share = order / count
    assert deviation(np.bincount((share * 1000).astype(int), minlength=1000), many / 1000) < 1.25
    for lag in (1, 2, 3, 64, 4096, round(count**0.5)):
        if lag < many:
            related = np.corrcoef(share[:-lag], share[lag:])[0, 1]
            assert abs(related) < 5 / many**0.5
    grid = np.zeros((50, 50))
    np.add.at(grid, ((share[:-1] * 50).astype(int), (share[1:] * 50).astype(int)), 1)
    assert deviation(grid, grid.mean()) < 1.2
    steps = np.diff(order)
    # In a random order one difference comes again about many² / (2 x 2 count) times.
    again = many - 1 - len(np.unique(steps))
    assert again < 2 * many**2 / (2 * 1.5 * count) + 50
    assert np.isin(steps, [-2, -1, 1, 2]).sum() < 12


def test_epochs_and_seeds_have_nothing_to_do_with_each_other() -> None:
    many = 100_000
    keys = [[0, 0], [0, 1], [1, 0], [1, 1]]
    orders = [Shuffled(BILLION)(*key)[0:many] for key in keys]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 5 / many**0.5
            # Two samples of many of a billion share many² / billion = 10 by chance.
            assert len(np.intersect1d(one, other)) < 40


def test_the_order_is_the_same_on_any_machine_and_in_any_version() -> None:
    assert Bijection(BILLION, [3, 4])[10:13].tolist() == [462765914, 35395609, 207746232]
    assert Bijection(10, [0])[0:10].tolist() == [4, 9, 3, 5, 1, 8, 7, 2, 6, 0]


def test_a_billion_examples_take_no_memory() -> None:
    tracemalloc.start()
    order = Shuffled(BILLION)(0, 0)
    assert len(order[0 : 1 << 16]) == 1 << 16
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
