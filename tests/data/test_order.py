"""A mixture keeps its shares over any number of epochs and steps; no example is favoured."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everytoken.data.cut import Topology
from everytoken.data.epoch import BatchBudget
from everytoken.data.order import (
    LARGE,
    EpochOrder,
    Indices,
    Mixture,
    ShortFirst,
    Shuffled,
    mixture_of,
)
from everytoken.data.sampler import GlobalBatches
from everytoken.errors import UserError

in_memory_or_not = pytest.mark.parametrize("large", [LARGE, 0], ids=["in memory", "computed"])
"""How many examples are in memory as a permutation at most."""


def whole(order: EpochOrder) -> Indices:
    return order[0 : len(order)]


parts = st.lists(st.tuples(st.integers(5, 40), st.floats(0.1, 10)), min_size=2, max_size=4)


@settings(max_examples=60, deadline=None)
@given(parts, st.integers(0, 9), st.integers(1, 20), st.sampled_from([LARGE, 0]))
def test_shares_are_kept_and_no_example_is_favoured(
    corpora: list[tuple[int, float]], seed: int, epochs: int, large: int
) -> None:
    sizes, weights = zip(*corpora, strict=True)
    order = Mixture(sizes, weights, large)
    taken = np.zeros(sum(sizes), dtype=int)
    for epoch in range(epochs):
        drawn = whole(order(seed, epoch))
        assert len(drawn) == sum(sizes)
        taken += np.bincount(drawn, minlength=len(taken))
    for part, weight in zip(np.split(taken, np.cumsum(sizes)[:-1]), weights, strict=True):
        share = weight / sum(weights) * epochs * sum(sizes)
        assert abs(part.sum() - share) < len(sizes)
        assert part.max() - part.min() <= 1


@in_memory_or_not
def test_an_epoch_depends_on_seed_and_number_alone(large: int) -> None:
    order = Mixture([20, 30], [1, 2], large)
    first = [whole(order(1, epoch)).tolist() for epoch in range(3)]
    again = [whole(order(1, epoch)).tolist() for epoch in (2, 0, 1)]
    assert again == [first[2], first[0], first[1]]
    assert first[0] != first[1]
    assert whole(order(2, 0)).tolist() != first[0]
    assert order.passes == pytest.approx([50 / 3 / 20, 100 / 3 / 30])


@in_memory_or_not
def test_each_pass_over_a_corpus_is_in_an_order_of_its_own(large: int) -> None:
    order = Mixture([30, 30], [1, 3], large)  # so an epoch takes half a pass over the first corpus
    halves = [frozenset(i for i in whole(order(0, epoch)) if i < 30) for epoch in range(8)]
    assert [len(half) for half in halves] == [15] * 8
    assert len({*halves[::2]}) == 4


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(0, 40),
    st.sampled_from([(None, 6), (50, None)]),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([LARGE, 0]),
)
def test_steps_are_the_same_on_any_topology_and_after_any_step(
    ranks: int, first: int, size: tuple[int | None, int | None], curriculum: int, large: int
) -> None:
    lengths = np.random.default_rng(0).integers(1, 20, 40)
    order = ShortFirst(Mixture([10, 30], [3, 1], large), lengths, curriculum)

    def steps(ranks: int, first_step: int) -> list[list[int]]:
        streams = [
            iter(
                GlobalBatches(
                    *(lengths, BatchBudget(*size), Topology(ranks, rank, 40), 0, None),
                    first_step,
                    order,
                )
            )
            for rank in range(ranks)
        ]
        plans = [[next(stream) for stream in streams] for _ in range(5)]
        return [sorted(i for p in step for part in p.micro_batches for i in part) for step in plans]

    alone = iter(GlobalBatches(lengths, BatchBudget(*size), Topology(1, 0, 40), 0, None, 0, order))
    whole = [next(alone) for _ in range(first + 5)][first:]
    right = [sorted(i for part in p.micro_batches for i in part) for p in whole]
    assert steps(ranks, first) == right


def test_shares_of_tokens_are_shares_of_what_is_read() -> None:
    lengths = np.array([2] * 30 + [10] * 30)  # so the second corpus gives five times the tokens
    settings = {"weights": {"a": 1, "b": 1}, "by": "tokens"}
    order = mixture_of(settings, [30, 30], lengths)
    read = np.concatenate([whole(order(0, epoch)) for epoch in range(12)])
    tokens = np.bincount(read // 30, lengths[read], minlength=2)
    assert tokens[0] / tokens.sum() == pytest.approx(0.5, abs=0.01)
    by_examples = mixture_of({**settings, "by": "examples"}, [30, 30], lengths)
    assert np.bincount(whole(by_examples(0, 0)) // 30).tolist() == [30, 30]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([4], "data.parts.b has no training example"),
        ([0, 4], "data.parts.a has no training example"),
        ([1, 2], "3 examples are too few to mix 2 corpora"),
    ],
)
def test_what_cannot_be_mixed(sizes: list[int], said: str) -> None:
    lengths = np.ones(sum(sizes), np.int64)
    with pytest.raises(UserError, match=said):
        mixture_of({"weights": {"a": 1, "b": 2}, "by": "examples"}, sizes, lengths)


@in_memory_or_not
def test_without_weights_an_epoch_has_each_example_once(large: int) -> None:
    assert sorted(whole(Shuffled(9, large)(3, 5))) == list(range(9))


def test_orders_of_earlier_versions_are_kept_up_to_a_size() -> None:
    assert LARGE == 2**24
    assert not Shuffled(LARGE).is_computed
    assert Shuffled(LARGE + 1).is_computed
    kept = np.random.default_rng([3, 5]).permutation(50)
    assert whole(Shuffled(50)(3, 5)).tolist() == kept.tolist()
    streams = [
        np.random.default_rng([3, part, 0, 1]).permutation(n) for part, n in [(0, 20), (1, 30)]
    ]
    drawn = np.concatenate([streams[0][:10], 20 + streams[1], 20 + second_pass(3)[:10]])
    mixed = np.random.default_rng([3, 0]).permutation(drawn)
    assert whole(Mixture([20, 30], [1, 4])(3, 0)).tolist() == mixed.tolist()


def second_pass(seed: int) -> Indices:
    return np.random.default_rng([seed, 1, 1, 1]).permutation(30)


@in_memory_or_not
def test_first_epochs_go_from_short_to_long(large: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 9, 200)
    shuffled = Shuffled(200, large)
    order = ShortFirst(shuffled, lengths, epochs=2)
    epochs = [whole(order(5, epoch)) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(200)) for epoch in epochs)
    assert [bool((np.diff(lengths[epoch]) >= 0).all()) for epoch in epochs] == [True, True, False]
    assert epochs[0].tolist() != epochs[1].tolist(), "equally long ones are shuffled anew"
    assert epochs[0].tolist() == whole(order(5, 0)).tolist() != whole(order(6, 0)).tolist()
    assert epochs[2].tolist() == whole(shuffled(5, 2)).tolist()


def test_a_computed_curriculum_is_sorted_as_one_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everytoken.data.order.WINDOW", 64)  # so that it takes several
    lengths = np.random.default_rng(0).integers(1, 30, 1000)
    mixed = Mixture([300, 700], [1, 1], 0)
    drawn = whole(mixed(1, 0))
    expected = drawn[np.argsort(lengths[drawn], kind="stable")]
    assert whole(ShortFirst(mixed, lengths, 1)(1, 0)).tolist() == expected.tolist()
