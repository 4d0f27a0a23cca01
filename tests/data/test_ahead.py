"""What steps to come need is asked for before they are made, and not too much of it."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from everytoken.data import ahead as module
from everytoken.data.ahead import Ahead, ahead


class Store:
    """Ten examples a shard; room for `shards` of them."""

    def __init__(self, shards: int) -> None:
        files = [SimpleNamespace(size=100)] * 1000
        self.of = SimpleNamespace(shards=files)
        self.source = SimpleNamespace(shelf=SimpleNamespace(most_bytes=100 * shards))
        self.asked: list[int] = []

    def shards_of(self, indices: list[int]) -> list[int]:
        return sorted({index // 10 for index in indices})

    def expect(self, shards: Any) -> None:
        self.asked += shards


STEPS = [[n, n + 5] for n in range(0, 1000, 5)]


def looking(store: Store) -> Ahead:
    return Ahead(STEPS, lambda step: step, cast(Any, store))


@pytest.mark.parametrize("shards", [1, 2, 8, 1000])
def test_steps_stay_as_they_are_and_their_shards_are_asked_for_before(shards: int):
    store, made = Store(shards), []
    for step in looking(store):
        assert {*store.shards_of(step)} <= {*store.asked}
        made.append(step)
        most = max(1, shards // 2) + 2  # those of the step that is looked at last
        assert len({n for n in store.asked if n > step[1] // 10}) <= most
    assert made == STEPS
    assert store.asked == sorted(store.asked)
    assert {*store.asked} == {*range(101)}


def test_the_first_step_waits_for_no_other():
    store = Store(1000)
    steps = iter(looking(store))
    assert next(steps) == STEPS[0]
    assert store.asked == [0]
    for _ in range(20):
        next(steps)
    assert max(store.asked) > 30


def test_it_looks_so_far_and_no_further(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_STEPS", 10)
    store = Store(1000)
    for number, _ in enumerate(looking(store)):
        assert max(store.asked) * 2 <= number + 14


def test_what_need_not_be_fetched_is_left_alone():
    assert ahead(STEPS, lambda step: step, []) is STEPS
