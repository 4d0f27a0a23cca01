"""How a global batch is cut: nothing is lost, no rank has more to do, none waits for nothing."""

import sys
import time
import tracemalloc
import zlib
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everytoken.data.balance import Work, share_tokens, share_work
from everytoken.data.cut import Topology, cut
from everytoken.data.order import Indices

properties = settings(max_examples=50, deadline=None)
corpora = st.lists(st.integers(1, 40), min_size=1, max_size=60).map(np.array)
# Ranks, a size of micro-batches that holds any example of `corpora`, and what ranks share.
works = st.sampled_from([None, Work(100), Work(5, window=9)])
cuts = st.tuples(st.integers(1, 6), st.integers(40, 160), works)
Size = tuple[int, int, Work | None]


def all_ranks(
    batch: Indices, lengths: Indices, ranks: int, limit: int, work: Work | None = None
) -> list[list[list[int]]]:
    """The micro-batches of every rank."""
    return [cut(batch, lengths, Topology(ranks, rank, limit, work)) for rank in range(ranks)]


def flat(micro_batches: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(micro_batches))


def loads(owners: Indices, costs: Indices, ranks: int) -> Indices:
    """What each rank has to do."""
    return np.bincount(owners, costs, ranks)


def test_longest_examples_go_first_to_the_rank_with_least() -> None:
    lengths = np.array([5, 4, 3, 2])
    assert all_ranks(np.arange(4), lengths, ranks=1, limit=20) == [[[0, 1, 2, 3]]]
    assert all_ranks(np.arange(4), lengths, ranks=2, limit=20) == [[[0, 3]], [[1, 2]]]
    assert all_ranks(np.arange(4), lengths, ranks=2, limit=5) == [[[0], [3]], [[1], [2]]]


@pytest.mark.parametrize("work", [None, Work(100)])
def test_without_a_limit_each_rank_has_one_micro_batch(work: Work | None) -> None:
    ranks = all_ranks(np.arange(20), np.arange(1, 21), ranks=3, limit=sys.maxsize, work=work)
    assert [len(rank) for rank in ranks] == [1, 1, 1]


def test_micro_batches_of_a_rank_are_nearly_equal() -> None:
    # As many as fit would be 4 and 2.
    assert cut(np.arange(6), np.ones(6, np.int64), Topology(1, 0, 4)) == [[0, 1, 2], [3, 4, 5]]


def test_a_rank_without_examples_gets_a_filler() -> None:
    assert all_ranks(np.array([7]), np.ones(8, np.int64), ranks=3, limit=9) == [[[7]], [[]], [[]]]


def test_a_rank_with_fewer_micro_batches_ends_with_fillers() -> None:
    lengths = np.array([5, 3, 3])
    assert all_ranks(np.arange(3), lengths, ranks=2, limit=5) == [[[0], []], [[1], [2]]]


def test_only_the_examples_of_the_batch_are_cut() -> None:
    lengths = np.array([100, 2, 100, 3, 100])
    assert all_ranks(np.array([1, 3]), lengths, ranks=2, limit=9) == [[[3]], [[1]]]


@properties
@given(corpora, cuts)
def test_ranks_share_a_batch_without_loss_or_repetition(lengths: Indices, size: Size) -> None:
    ranks = all_ranks(np.arange(len(lengths)), lengths, *size)
    assert sorted(flat([flat(rank) for rank in ranks])) == list(range(len(lengths)))


@properties
@given(corpora, cuts)
def test_all_ranks_have_as_many_micro_batches(lengths: Indices, size: Size) -> None:
    ranks = all_ranks(np.arange(len(lengths)), lengths, *size)
    assert len({len(rank) for rank in ranks}) == 1
    # Someone needs them all: no step of fillers only.
    assert any(all(rank) for rank in ranks)


@properties
@given(corpora, cuts)
def test_fillers_stand_only_where_a_rank_has_nothing_left(lengths: Indices, size: Size) -> None:
    for rank in all_ranks(np.arange(len(lengths)), lengths, *size):
        real = [bool(micro_batch) for micro_batch in rank]
        assert real == sorted(real, reverse=True)


@properties
@given(corpora, cuts)
def test_no_micro_batch_is_above_the_limit(lengths: Indices, size: Size) -> None:
    for rank in all_ranks(np.arange(len(lengths)), lengths, *size):
        assert all(lengths[micro_batch].sum() <= size[1] for micro_batch in rank if micro_batch)


@properties
@given(corpora, st.integers(1, 30))
def test_an_example_above_the_limit_is_a_micro_batch_of_its_own(
    lengths: Indices, limit: int
) -> None:
    for micro_batch in cut(np.arange(len(lengths)), lengths, Topology(1, 0, limit)):
        assert lengths[micro_batch].sum() <= limit or len(micro_batch) == 1


@properties
@given(corpora, cuts)
def test_a_rank_has_as_few_micro_batches_as_can_be(lengths: Indices, size: Size) -> None:
    for rank in all_ranks(np.arange(len(lengths)), lengths, *size):
        loads = [lengths[micro_batch].sum() for micro_batch in rank if micro_batch]
        assert all(a + b > size[1] for a, b in pairwise(loads))


@properties
@given(corpora, cuts)
def test_examples_of_like_length_share_a_micro_batch(lengths: Indices, size: Size) -> None:
    for rank in all_ranks(np.arange(len(lengths)), lengths, *size):
        in_order = lengths[np.array(flat(rank), dtype=int)].tolist()
        assert in_order == sorted(in_order, reverse=True)


@properties
@given(corpora, cuts)
def test_ranks_have_nearly_as_much_to_do(lengths: Indices, size: Size) -> None:
    work = size[-1]
    shares = [
        np.array(flat(rank), dtype=int)
        for rank in all_ranks(np.arange(len(lengths)), lengths, *size)
    ]
    costs = lengths if work is None else work.of(lengths)
    found = [int(costs[share].sum()) for share in shares]
    assert max(found) - min(found) <= max(costs)


def test_ranks_swap_examples_until_they_are_even() -> None:
    # Longest first to who has least: 3 + 2 + 2 and 3 + 2. A 3 for a 2 makes them equal.
    lengths = np.array([3, 3, 2, 2, 2])
    ranks = all_ranks(np.arange(5), lengths, 2, 100)
    assert [lengths[np.array(flat(rank))].sum() for rank in ranks] == [6, 6]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_whole_split_is_shared_without_looking_at_all_pairs(ranks: int) -> None:
    """Pairs of 100,000 examples would take 80 GB: evaluation cuts all of a split at once."""
    lengths = np.random.default_rng(0).integers(1, 60, 100_000)
    tracemalloc.start()
    pieces = cut(np.arange(len(lengths)), lengths, Topology(ranks, 0, 16_384))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    tokens = sum(lengths[piece].sum() for piece in pieces)
    assert abs(ranks * tokens - lengths.sum()) <= ranks


@pytest.mark.parametrize("work", [None, Work(3072)], ids=["tokens", "work"])
def test_eight_ranks_share_a_step_of_sentence_pairs_to_two_percent(work: Work | None) -> None:
    # Lengths like Multi30k's: 31 tokens a pair on average, 18 to 49 for nine of ten.
    lengths = np.random.default_rng(0).lognormal(3.38, 0.3, 128 * 50).astype(np.int64)
    costs = lengths if work is None else work.of(lengths)
    for batch in np.split(np.arange(len(lengths)), 50):
        ranks = all_ranks(batch, lengths, 8, 16384, work)
        found = np.array([costs[np.array(flat(rank), dtype=int)].sum() for rank in ranks])
        assert found.max() <= 1.02 * found.mean()


def test_cuts_of_earlier_versions_are_kept() -> None:
    """A run that balanced tokens goes on bit for bit."""
    lengths = np.random.default_rng(5).integers(1, 300, 400)
    batch = np.random.default_rng(6).permutation(400)[:300]
    found = [rank for ranks in (1, 3, 16) for rank in all_ranks(batch, lengths, ranks, 900)]
    assert zlib.crc32(repr(found).encode()) == 924164666


# Work


def test_work_is_of_tokens_and_of_pairs_that_attend() -> None:
    lengths = np.array([1, 3, 10])
    assert Work(7).of(lengths).tolist() == [8, 30, 170]
    pairs = [t * t - max(t - 4, 0) ** 2 for t in lengths.tolist()]
    assert Work(7, window=4).of(lengths).tolist() == [
        7 * t + p for t, p in zip(lengths, pairs, strict=True)
    ]


def texts(kind: str, rng: np.random.Generator) -> Indices:
    """Lengths of four million tokens."""
    many = 400_000
    made = {
        "sentences": lambda: rng.lognormal(3.38, 0.3, many),
        "windows": lambda: np.where(rng.random(many) < 0.9, 256, rng.integers(1, 257, many)),
        "documents": lambda: rng.lognormal(6, 1, many).clip(max=2048),
        "chats": lambda: np.where(rng.random(many) < 0.02, rng.integers(900, 2000, many), 60),
        "books": lambda: rng.lognormal(6.5, 1.2, many).clip(max=32_768),
    }[kind]()
    lengths = made.astype(np.int64) + 1
    return lengths[: np.searchsorted(np.cumsum(lengths), 4_000_000)]


@pytest.mark.parametrize("ranks", [8, 64, 1024])
@pytest.mark.parametrize("kind", ["sentences", "windows", "documents", "chats", "books"])
def test_a_step_of_four_million_tokens_is_even(kind: str, ranks: int) -> None:
    """To two percent; a text that is more than the mean share is its rank's only one."""
    lengths = texts(kind, np.random.default_rng(0))
    costs = Work(12 * 1024).of(lengths)
    found = loads(share_work(costs, ranks), costs, ranks)
    assert found.sum() == costs.sum()
    assert found.max() <= max(1.02 * found.mean(), costs.max())
    if kind != "books":
        assert costs.max() < 1.02 * found.mean(), "so the first bound holds"
    else:
        by_tokens = share_tokens(lengths, ranks).most(costs)
        assert found.max() <= by_tokens


def test_a_rank_cuts_its_own_in_milliseconds() -> None:
    lengths = texts("sentences", np.random.default_rng(0))
    topology = Topology(1024, 700, 16_384, Work(12 * 1024))
    seconds = []
    for _ in range(5):
        started = time.process_time()
        cut(np.arange(len(lengths)), lengths, topology)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.03  # about 0.008


def test_fewer_micro_batches_go_before_a_little_less_work() -> None:
    # By work, 9 + 1 + 1 and 6 + 6 + 1; by tokens, which fills both, 9 + 1 + 1 + 1 and 6 + 6.
    lengths = np.array([9, 1, 1, 1, 6, 6])
    costs = Work(10).of(lengths)
    assert sorted(loads(share_work(costs, 2), costs, 2)) == [193, 203]
    ranks = all_ranks(np.arange(6), lengths, 2, 12, Work(10))
    assert [[len(micro_batch) for micro_batch in rank] for rank in ranks] == [[4], [2]]
    ranks = all_ranks(np.arange(6), lengths, 2, 13, Work(10))
    assert [[len(micro_batch) for micro_batch in rank] for rank in ranks] == [[3], [3]]


@properties
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=3000), st.integers(1, 40))
def test_whatever_the_costs_nobody_has_much_more(costs: list[int], ranks: int) -> None:
    found = loads(share_work(np.array(costs), ranks), np.array(costs), ranks)
    assert found.sum() == sum(costs)
    assert found.max() <= sum(costs) / ranks + max(costs)
