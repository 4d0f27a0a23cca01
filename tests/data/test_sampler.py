"""What the sampler promises: every example once per epoch, and steps that know no topology."""

from itertools import chain, islice, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everytoken.data.balance import Work
from everytoken.data.cut import Topology
from everytoken.data.epoch import BatchBudget, EpochBatches
from everytoken.data.order import Indices
from everytoken.data.sampler import GlobalBatches, StepPlan
from everytoken.errors import UserError

ONE_DEVICE = Topology(ranks=1, rank=0, microbatch_tokens=40)

properties = settings(max_examples=50, deadline=None)
corpora = st.lists(st.integers(1, 40), min_size=1, max_size=60).map(np.array)
token_budgets = st.builds(BatchBudget, tokens=st.integers(1, 150), examples=st.none())
example_budgets = st.builds(BatchBudget, tokens=st.none(), examples=st.integers(1, 20))
budgets = st.one_of(token_budgets, example_budgets)
seeds = st.integers(0, 9)
# Ranks, a size of micro-batches that holds any example of `corpora`, and what ranks share.
works = st.sampled_from([None, Work(100), Work(5, window=9)])
cuts = st.tuples(st.integers(1, 6), st.integers(40, 160), works)


def stream(
    lengths: Indices,
    budget: BatchBudget,
    topology: Topology = ONE_DEVICE,
    *,
    seed: int = 0,
    epochs: int | None = 1,
    first_step: int = 0,
) -> GlobalBatches:
    return GlobalBatches(lengths, budget, topology, seed, epochs, first_step)


def flat(micro_batches: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(micro_batches))


def examples_of_steps(plans: list[StepPlan]) -> list[tuple[int, list[int]]]:
    """Epoch and sorted examples of each step."""
    return [(plan.epoch, sorted(flat(plan.micro_batches))) for plan in plans]


# Global batches


def test_a_token_budget_is_filled_as_far_as_it_goes() -> None:
    # 4 + 6 | 1 (20 more are too many) | 20 alone, above the budget | 3 + 7
    assert BatchBudget(tokens=10, examples=None).cut([4, 6, 1, 20, 3, 7]) == [2, 3, 4, 6]


def test_a_number_of_examples_is_kept_but_for_the_rest() -> None:
    assert BatchBudget(tokens=None, examples=2).cut([9, 1, 9, 1, 9]) == [2, 4, 5]
    assert BatchBudget(tokens=None, examples=2).cut([9, 1, 9, 1]) == [2, 4]
    assert BatchBudget(tokens=None, examples=7).cut([9, 1, 9]) == [3]


@pytest.mark.parametrize(("tokens", "examples", "state"), [(5, 5, "both"), (None, None, "neither")])
def test_exactly_one_budget_is_set(tokens: int | None, examples: int | None, state: str) -> None:
    with pytest.raises(UserError, match=rf"data.batch_tokens and data.batch_size \({state}"):
        BatchBudget(tokens, examples)


@properties
@given(corpora, budgets, seeds, st.integers(0, 5))
def test_the_batches_of_an_epoch_hold_every_example_once(
    lengths: Indices, budget: BatchBudget, seed: int, epoch: int
) -> None:
    batches = [*stream(lengths, budget, seed=seed).epoch(epoch)]
    assert all(len(batch) for batch in batches)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))


@properties
@given(corpora, budgets, seeds, st.integers(1, 70))
def test_batches_are_cut_from_the_shuffled_order_a_window_at_a_time(
    lengths: Indices, budget: BatchBudget, seed: int, size: int
) -> None:
    order = np.random.default_rng([seed, 2]).permutation(len(lengths))
    expected = [batch.tolist() for batch in np.split(order, budget.cut(lengths[order])[:-1])]
    batches = stream(lengths, budget, seed=seed).epoch(2)
    assert [batch.tolist() for batch in batches] == expected
    assert len(batches) == len(expected)
    found, begin = [], 0
    for window in batches.windows(size=size):
        assert window.begin == begin
        parts = np.split(window.examples, window.ends)
        found += [part.tolist() for part in parts[: len(window.ends)]]
        begin += window.ends[-1]
    assert found == expected


def test_a_batch_of_counted_examples_needs_no_lengths() -> None:
    # Of a large corpus they would have to be read from the disk first.
    lengths = np.broadcast_to(np.int64(7), 10).view(Unread)
    assert len(stream(lengths, BatchBudget(None, 3)).epoch(0)) == 4


class Unread(np.ndarray):
    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("lengths were read")


def test_epochs_of_counted_examples_are_skipped_unshuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    shuffled: list[int] = []

    def epoch(self: GlobalBatches, epoch: int) -> EpochBatches:
        shuffled.append(epoch)
        return original(self, epoch)

    original = GlobalBatches.epoch
    monkeypatch.setattr(GlobalBatches, "epoch", epoch)
    steps = stream(np.ones(10, np.int64), BatchBudget(None, 3), epochs=9, first_step=4 * 7 + 1)
    assert steps.total_steps() == 36
    assert [plan.epoch for plan in steps] == [7] * 3 + [8] * 4
    assert shuffled == [7, 8]


@properties
@given(corpora, token_budgets, seeds)
def test_passes_are_counted_in_steps_of_their_own_epoch(
    lengths: Indices, budget: BatchBudget, seed: int
) -> None:
    """Epochs of a token budget have different numbers of steps."""
    batches = stream(lengths, budget, seed=seed)
    steps, sizes = 0, [len(batches.epoch(epoch)) for epoch in range(3)]
    for epoch, size in enumerate(sizes):
        passes = [batches.epochs_after(steps + i) for i in range(size)]
        assert passes == pytest.approx([epoch + i / size for i in range(size)])
        steps += size
    assert batches.epochs_after(steps) == 3.0
    assert stream(lengths, BatchBudget(None, 2)).epochs_after(3) == 3 / -(-len(lengths) // 2)


@properties
@given(corpora, token_budgets, seeds)
def test_a_batch_keeps_the_token_budget_unless_one_example_exceeds_it(
    lengths: Indices, budget: BatchBudget, seed: int
) -> None:
    assert budget.tokens is not None
    batches = [*stream(lengths, budget, seed=seed).epoch(0)]
    for batch in batches:
        assert lengths[batch].sum() <= budget.tokens or len(batch) == 1
    for batch, following in pairwise(batches):
        assert lengths[batch].sum() + lengths[following[0]] > budget.tokens


@properties
@given(corpora, example_budgets, seeds)
def test_a_batch_has_exactly_batch_size_examples_but_for_the_last(
    lengths: Indices, budget: BatchBudget, seed: int
) -> None:
    assert budget.examples is not None
    *others, last = stream(lengths, budget, seed=seed).epoch(0)
    assert all(len(batch) == budget.examples for batch in others)
    assert 1 <= len(last) <= budget.examples


@properties
@given(corpora, token_budgets, seeds)
def test_the_order_of_examples_does_not_depend_on_their_lengths(
    lengths: Indices, budget: BatchBudget, seed: int
) -> None:
    # So a global batch is a uniform sample: long and short examples are not told apart.
    order = np.concatenate([*stream(lengths, budget, seed=seed).epoch(0)])
    same = np.concatenate([*stream(np.ones_like(lengths), budget, seed=seed).epoch(0)])
    assert order.tolist() == same.tolist()


def test_every_place_in_the_order_is_equally_likely() -> None:
    steps = stream(np.arange(1, 6), BatchBudget(None, 5))
    orders = np.array([next(iter(steps.epoch(epoch))) for epoch in range(2000)])
    for column in orders.T:  # 400 expected; its standard deviation is 18
        assert np.bincount(column, minlength=5).tolist() == pytest.approx([400] * 5, abs=80)


# Topology


@properties
@given(corpora, budgets, seeds, cuts)
def test_the_examples_of_a_step_do_not_depend_on_the_topology(
    lengths: Indices, budget: BatchBudget, seed: int, size: tuple[int, int, Work | None]
) -> None:
    ranks, limit, work = size
    by_rank = [
        list(stream(lengths, budget, Topology(ranks, rank, limit, work), seed=seed, epochs=2))
        for rank in range(ranks)
    ]
    merged = [
        StepPlan(plans[0].epoch, [batch for plan in plans for batch in plan.micro_batches])
        for plans in zip(*by_rank, strict=True)
    ]
    one = list(stream(lengths, budget, seed=seed, epochs=2))
    assert examples_of_steps(merged) == examples_of_steps(one)


# The stream of steps


@properties
@given(corpora, budgets, seeds, st.integers(1, 4))
def test_steps_are_the_batches_of_one_epoch_after_the_other(
    lengths: Indices, budget: BatchBudget, seed: int, epochs: int
) -> None:
    steps = stream(lengths, budget, seed=seed, epochs=epochs)
    expected = [
        (epoch, sorted(batch.tolist())) for epoch in range(epochs) for batch in steps.epoch(epoch)
    ]
    assert examples_of_steps(list(steps)) == expected
    assert steps.total_steps() == len(expected)


@properties
@given(corpora, budgets, seeds, st.integers(0, 40))
def test_first_step_skips_exactly_the_steps_before_it(
    lengths: Indices, budget: BatchBudget, seed: int, first_step: int
) -> None:
    whole = list(stream(lengths, budget, seed=seed, epochs=3))
    tail = list(stream(lengths, budget, seed=seed, epochs=3, first_step=first_step))
    assert tail == whole[first_step:]


def test_first_step_reaches_over_epochs() -> None:
    def epochs(first_step: int) -> list[int]:
        steps = stream(np.ones(6, np.int64), BatchBudget(None, 2), epochs=3, first_step=first_step)
        return [plan.epoch for plan in steps]

    assert epochs(0) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert epochs(2) == [0, 1, 1, 1, 2, 2, 2]
    assert epochs(3) == [1, 1, 1, 2, 2, 2]
    assert epochs(7) == [2, 2]
    assert epochs(9) == []


def test_without_epochs_the_stream_has_no_end() -> None:
    lengths, budget = np.arange(1, 10), BatchBudget(20, None)
    endless = islice(stream(lengths, budget, epochs=None), 100)
    limited = islice(stream(lengths, budget, epochs=50), 100)
    assert list(endless) == list(limited)


def test_the_same_seed_gives_the_same_steps_again() -> None:
    lengths, budget = np.arange(1, 50), BatchBudget(100, None)
    steps = stream(lengths, budget, seed=3)
    assert list(steps) == list(steps) == list(stream(lengths, budget, seed=3))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    lengths = np.arange(1, 50)
    orders = {
        tuple(np.concatenate([*stream(lengths, BatchBudget(100, None), seed=seed).epoch(epoch)]))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16
