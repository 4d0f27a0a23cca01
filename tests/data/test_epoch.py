"""Where steps begin: found from marks as by counting, in memory or not, after any kill."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everytoken.data.cut import Topology
from everytoken.data.epoch import FIRST_WINDOW, BatchBudget, EpochBatches, Mark, Marks, Window
from everytoken.data.order import LARGE, Indices, Mixture, Order, ShortFirst, Shuffled
from everytoken.data.sampler import EpochSteps, GlobalBatches

properties = settings(max_examples=40, deadline=None)
corpora = st.lists(st.integers(1, 40), min_size=4, max_size=60).map(np.array)
tokens = st.integers(1, 150).map(lambda tokens: BatchBudget(tokens, None))
examples = st.integers(1, 20).map(lambda examples: BatchBudget(None, examples))
orders = st.sampled_from(["shuffled", "short first", "mixture"])
larges = st.sampled_from([LARGE, 0])


def order_of(kind: str, lengths: Indices, large: int) -> Order:
    plain = Shuffled(len(lengths), large)
    parts = [len(lengths) // 3, len(lengths) - len(lengths) // 3]
    made = {"shuffled": plain, "short first": ShortFirst(plain, lengths, 1)}
    return made.get(kind) or Mixture(parts, [2, 1], large)


def stream(
    lengths: Indices,
    budget: BatchBudget,
    order: Order,
    first_step: int = 0,
    marks: Marks | None = None,
    epochs: int | None = None,
) -> GlobalBatches:
    topology = Topology(1, 0, 200)
    return GlobalBatches(lengths, budget, topology, 3, epochs, first_step, order, marks)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an epoch has several."""
    monkeypatch.setattr(EpochBatches.windows, "__defaults__", (0, 8))


@properties
@given(corpora, st.one_of(tokens, examples), orders, larges, st.integers(0, 60), st.integers(0, 20))
def test_a_resumed_run_goes_on_from_its_marks(
    lengths: Indices, budget: BatchBudget, kind: str, large: int, made: int, ahead: int
) -> None:
    """What loaders have fetched beyond the last step is fetched again."""
    order = order_of(kind, lengths, large)
    whole = stream(lengths, budget, order)
    dealt = iter(whole)
    first = [*islice(dealt, made + ahead + 10)]
    state = whole.marks.state(made)
    assert state["mark"][0] <= made
    marks = Marks()
    marks.learn(state)
    resumed = stream(lengths, budget, order_of(kind, lengths, large), made, marks)
    counted = stream(lengths, budget, order_of(kind, lengths, large), made)
    assert resumed.find(made) == counted.find(made)
    assert [*islice(resumed, ahead + 10)] == first[made:] == [*islice(counted, ahead + 10)]
    passes = [whole.epochs_after(step) for step in range(made + ahead)]
    assert passes == [resumed.epochs_after(step) for step in range(made + ahead)]


@properties
@given(corpora, tokens, larges, st.integers(1, 4))
def test_counted_epochs_are_kept(
    lengths: Indices, budget: BatchBudget, large: int, epochs: int
) -> None:
    order = Shuffled(len(lengths), large)
    whole = stream(lengths, budget, order, epochs=epochs)
    total = whole.total_steps()
    assert total == len([*whole])
    marks = Marks()
    marks.learn(whole.marks.state(0))
    again = stream(lengths, budget, Shuffled(len(lengths), large), 0, marks, epochs)
    again.epoch = forbidden
    assert again.total_steps() == total
    assert again.epochs_after(total) == epochs
    assert again.steps_of_first_epoch() == marks.begins[1]


def forbidden(epoch: int) -> Any:
    raise AssertionError(f"epoch {epoch} was shuffled again")


@properties
@given(corpora, tokens, larges)
def test_a_trainer_that_counts_epochs_gets_each_whole(
    lengths: Indices, budget: BatchBudget, large: int
) -> None:
    order = Shuffled(len(lengths), large)
    expected = [*stream(lengths, budget, order, epochs=3)]
    by_epoch = EpochSteps(stream(lengths, budget, order, epochs=3))
    assert [plan for _ in range(3) for plan in by_epoch] == expected
    marks = Marks()
    marks.learn(by_epoch.stream.marks.state(len(expected) // 2))
    rest = EpochSteps(stream(lengths, budget, order, len(expected) // 2, marks, 3))
    left = [plan for _ in range(3 - expected[len(expected) // 2].epoch) for plan in rest]
    assert left == expected[len(expected) // 2 :]


def test_a_resumed_run_looks_at_no_more_than_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the 41st epoch of a corpus that no memory would hold."""
    lengths = np.broadcast_to(np.int64(7), 10**9)
    marks = Marks()
    marks.learn({"begins": [10**6 * n for n in range(41)], "mark": [40_900_000, 40, 900_000_000]})
    looked: list[int] = []
    order = Shuffled(len(lengths))
    run = stream(lengths, BatchBudget(7000, None), order, 40_900_003, marks)
    real = EpochBatches.windows

    def windows(self: EpochBatches, begin: int) -> Iterator[Window]:
        for window in real(self, begin, FIRST_WINDOW):
            looked.append(len(window.examples))
            yield window

    monkeypatch.setattr(EpochBatches, "windows", windows)
    plan = next(iter(run))
    monkeypatch.undo()
    assert plan.epoch == 40
    [mine] = [[i for part in plan.micro_batches for i in part]]
    assert sorted(mine) == sorted(order(3, 40)[900_003_000:900_004_000].tolist())
    assert sum(looked) < 300_000
    assert run.epochs_after(40_900_003) == pytest.approx(40.9, abs=1e-3)


def test_how_long_a_run_is_takes_no_pass_over_a_large_corpus() -> None:
    lengths = np.broadcast_to(np.int64(7), 10**9)
    run = stream(lengths, BatchBudget(7000, None), Shuffled(len(lengths)))
    assert run.steps_of_first_epoch() == pytest.approx(10**6, rel=1e-3)
    assert run.epochs_after(2_500_000) == pytest.approx(2.5, rel=1e-3)
    assert run.largest() == 1000


def test_the_latest_marks_are_enough() -> None:
    marks = Marks()
    for step in range(0, 5000, 2):
        marks.add(Mark(step, 0, 10 * step))
    marks.add(Mark(8, 0, 80))  # a stream that begins anew adds nothing
    assert marks.before(4001) == Mark(4000, 0, 40_000)
    assert marks.before(7) == Mark(0, 0, 0)
    marks.begin(1, 5000)
    marks.begin(1, 6000)  # known already
    marks.begin(3, 9000)  # of one that isn't next
    assert marks.begins == [0, 5000]
    assert marks.before(5001) == Mark(5000, 1, 0)
