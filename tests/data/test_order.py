"""A mixture keeps its shares over any number of epochs and steps; no example is favoured."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everytoken.data.order import Mixture, ShortFirst, Shuffled, mixture_of
from everytoken.data.sampler import BatchBudget, GlobalBatches, Topology
from everytoken.errors import UserError

parts = st.lists(st.tuples(st.integers(5, 40), st.floats(0.1, 10)), min_size=2, max_size=4)


@settings(max_examples=60, deadline=None)
@given(parts, st.integers(0, 9), st.integers(1, 30))
def test_shares_are_kept_and_no_example_is_favoured(
    corpora: list[tuple[int, float]], seed: int, epochs: int
) -> None:
    sizes, weights = zip(*corpora, strict=True)
    order = Mixture(sizes, weights)
    taken = np.zeros(sum(sizes), dtype=int)
    for epoch in range(epochs):
        drawn = order(seed, epoch)
        assert len(drawn) == sum(sizes)
        taken += np.bincount(drawn, minlength=len(taken))
    for part, weight in zip(np.split(taken, np.cumsum(sizes)[:-1]), weights, strict=True):
        share = weight / sum(weights) * epochs * sum(sizes)
        assert abs(part.sum() - share) < len(sizes)
        assert part.max() - part.min() <= 1


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    order = Mixture([20, 30], [1, 2])
    first = [order(1, epoch).tolist() for epoch in range(3)]
    assert [order(1, epoch).tolist() for epoch in (2, 0, 1)] == [first[2], first[0], first[1]]
    assert first[0] != first[1]
    assert order(2, 0).tolist() != first[0]
    assert order.passes == pytest.approx([50 / 3 / 20, 100 / 3 / 30])


def test_each_pass_over_a_corpus_is_in_an_order_of_its_own() -> None:
    order = Mixture([30, 30], [1, 3])  # so an epoch takes half a pass over the first corpus
    halves = [frozenset(i for i in order(0, epoch) if i < 30) for epoch in range(8)]
    assert [len(half) for half in halves] == [15] * 8
    assert len({*halves[::2]}) == 4


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(0, 40),
    st.sampled_from([(None, 6), (50, None)]),
    st.sampled_from([0, 1, 3]),
)
def test_steps_are_the_same_on_any_topology_and_after_any_step(
    ranks: int, first: int, size: tuple[int | None, int | None], curriculum: int
) -> None:
    lengths = np.random.default_rng(0).integers(1, 20, 40)
    order = ShortFirst(Mixture([10, 30], [3, 1]), lengths, curriculum)

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
    read = np.concatenate([order(0, epoch) for epoch in range(12)])
    tokens = np.bincount(read // 30, lengths[read], minlength=2)
    assert tokens[0] / tokens.sum() == pytest.approx(0.5, abs=0.01)
    by_examples = mixture_of({**settings, "by": "examples"}, [30, 30], lengths)
    assert np.bincount(by_examples(0, 0) // 30).tolist() == [30, 30]


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


def test_without_weights_an_epoch_has_each_example_once() -> None:
    assert sorted(Shuffled(9)(3, 5)) == list(range(9))


def test_first_epochs_go_from_short_to_long() -> None:
    lengths = np.random.default_rng(0).integers(1, 9, 200)
    order = ShortFirst(Shuffled(200), lengths, epochs=2)
    epochs = [order(5, epoch) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(200)) for epoch in epochs)
    assert [bool((np.diff(lengths[epoch]) >= 0).all()) for epoch in epochs] == [True, True, False]
    assert epochs[0].tolist() != epochs[1].tolist(), "equally long ones are shuffled anew"
    assert epochs[0].tolist() == order(5, 0).tolist() != order(6, 0).tolist()
    assert epochs[2].tolist() == Shuffled(200)(5, 2).tolist()
