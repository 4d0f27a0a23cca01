"""Metrics: exact counts, the same for any batching, and NaN where there was nothing to count."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.text import Perplexity as PeerPerplexity

from everytoken.batch import IGNORE_INDEX
from everytoken.errors import UserError
from everytoken.training.evaluation_metrics import EvaluationMetrics
from everytoken.training.loss import TargetSums
from everytoken.training.metrics import (
    BitsPerByte,
    ExactMatch,
    MaskedAccuracy,
    Perplexity,
    Ratio,
)
from everytoken.training.text_metrics import Bleu, Chrf

NO = IGNORE_INDEX
V = 6

few = settings(max_examples=40, deadline=None)


def made(
    shape: tuple[int, ...], *, ignored: float = 0.3, ignore_index: int = NO, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Random logits (…, V) without ties, and targets (…), a share of them ignored."""
    chance = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, V, generator=chance)
    targets = torch.randint(V, shape, generator=chance)
    is_ignored = torch.rand(shape, generator=chance) < ignored
    return logits, targets.masked_fill(is_ignored, ignore_index)


def value_of(metric: Metric, *batches: tuple[Any, Any]) -> float:
    for batch in batches:
        metric.update(*batch)
    return float(metric.compute())


class NoDirection(MaskedAccuracy):
    """A user's metric that doesn't say which way it improves."""

    higher_is_better = None


# To check by eye


def test_accuracy_counts_target_tokens_only() -> None:
    # Most likely tokens: 2, 0, 1, 1. The targets say 2, 1, 1 and nothing.
    logits = torch.tensor([[[0, 1, 3], [3, 2, 1], [0, 3, 2], [0, 3, 2]]]).float()
    targets = torch.tensor([[2, 1, 1, NO]])
    metric = MaskedAccuracy()
    metric.update(logits, targets)
    assert (metric.total.item(), metric.count.item()) == (2, 3)
    assert metric.compute().item() == pytest.approx(2 / 3)
    assert value_of(MaskedAccuracy(top_k=2), (logits, targets)) == 1.0


def test_perplexity_is_the_size_of_the_choice() -> None:
    # One token of chance 1/2 and one of chance 1/8: on average 2 bits, a choice among 4.
    logits = torch.tensor([[1 / 2, 1 / 4, 1 / 4], [7 / 16, 1 / 8, 7 / 16], [1, 1, 1]]).log()
    assert value_of(Perplexity(), (logits, torch.tensor([0, 1, NO]))) == pytest.approx(4.0)


def test_exact_match_wants_every_token() -> None:
    references = [[1, 2, 3], [4], [], [1, 2]]
    predictions = [[1, 2, 3], [4, 4], [], [2, 1]]
    metric = ExactMatch()
    metric.update(predictions, references)
    assert (metric.total.item(), metric.count.item()) == (2, 4)
    assert metric.compute().item() == 0.5


def test_exact_match_wants_one_prediction_for_each_reference() -> None:
    with pytest.raises(ValueError, match="longer than"):
        ExactMatch().update([[1]], [[1], [2]])


def test_ratio_divides_once() -> None:
    # A mean of 1/1 and 0/9 is 1/10, and not the average of 1 and 0.
    assert value_of(Ratio(), (1, 1), (0, 9)) == pytest.approx(0.1)
    metric = Ratio(whole=False)
    assert value_of(metric, (torch.tensor(0.5), 1), (torch.tensor(1.0), torch.tensor(2))) == 0.5


def test_ratio_takes_whole_sums_exactly() -> None:
    metric = Ratio()
    metric.update(torch.tensor(2**53), 2**53)
    metric.update(1, torch.tensor(1))
    assert metric.total.item() == metric.count.item() == 2**53 + 1


def test_many_small_losses_are_added_in_float64() -> None:
    # In float32 the sum would not move any more: 1e8 + 1 == 1e8.
    metric = Ratio(whole=False)
    metric.update(torch.tensor(1e8), 1)
    for _ in range(10):
        metric.update(torch.tensor(1.0), 1)
    assert metric.total.item() == 1e8 + 10


def test_counting_holds_no_graph() -> None:
    metric = Ratio(whole=False)
    metric.update(torch.ones((), requires_grad=True) * 2, 1)
    assert not metric.total.requires_grad


# Peers


@few
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    top_k=st.integers(1, V),
    ignore_index=st.sampled_from([NO, -1, 0, 3]),
    seed=st.integers(0, 999),
)
def test_accuracy_is_that_of_a_plain_loop_and_of_torchmetrics(
    shape: tuple[int, ...], top_k: int, ignore_index: int, seed: int
) -> None:
    logits, targets = made(shape, ignore_index=ignore_index, seed=seed)
    metric = MaskedAccuracy(ignore_index, top_k)
    metric.update(logits, targets)
    hits = count = 0
    for scores, target in zip(logits.view(-1, V).tolist(), targets.flatten().tolist(), strict=True):
        if target != ignore_index:
            count += 1
            hits += target in sorted(range(V), key=lambda i, s=scores: -s[i])[:top_k]
    assert (metric.total.item(), metric.count.item()) == (hits, count)

    peer = MulticlassAccuracy(V, top_k=top_k, average="micro", ignore_index=ignore_index)
    peer.update(logits.view(-1, V), targets.flatten())
    if count:
        assert metric.compute().item() == pytest.approx(peer.compute().item())


@few
@given(seed=st.integers(0, 999), ignore_index=st.sampled_from([NO, -1, 0]))
def test_perplexity_is_that_of_torchmetrics(seed: int, ignore_index: int) -> None:
    batches = [made((2, n), ignore_index=ignore_index, seed=seed + n) for n in (5, 1, 3)]
    peer = PeerPerplexity(ignore_index=ignore_index)
    metric = Perplexity(ignore_index)
    found, expected = value_of(metric, *batches), value_of(peer, *batches)
    if metric.count:
        assert found == pytest.approx(expected, rel=1e-5)
        assert found >= 1


# Any batching


def counts(metric: Ratio, batches: list[tuple[Any, Any]]) -> tuple[float, int]:
    for batch in batches:
        metric.update(*batch)
    return metric.total.item(), int(metric.count)


@few
@given(cuts=st.sets(st.integers(1, 11)), seed=st.integers(0, 99), side=st.sampled_from([0, 1]))
def test_any_split_into_batches_gives_equal_counts(cuts: set[int], seed: int, side: int) -> None:
    logits, targets = made((12, 12), seed=seed)
    sizes = [b - a for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), 12], strict=True)]
    parts = list(zip(logits.split(sizes, side), targets.split(sizes, side), strict=True))
    whole = [(logits, targets)]
    assert counts(MaskedAccuracy(), parts) == counts(MaskedAccuracy(), whole)
    assert counts(MaskedAccuracy(top_k=3), parts) == counts(MaskedAccuracy(top_k=3), whole)
    total, count = counts(Perplexity(), parts)
    assert (pytest.approx(total, rel=1e-5), count) == counts(Perplexity(), whole)


@few
@given(
    pairs=st.lists(
        st.tuples(*[st.lists(st.integers(0, 1), max_size=2)] * 2), min_size=1, max_size=12
    ),
    cut=st.integers(0, 12),
)
def test_any_split_into_batches_gives_equal_matches(
    pairs: list[tuple[list[int], list[int]]], cut: int
) -> None:
    predictions, references = [p for p, _ in pairs], [r for _, r in pairs]
    whole = [(predictions, references)]
    parts = [(predictions[:cut], references[:cut]), (predictions[cut:], references[cut:])]
    assert counts(ExactMatch(), parts) == counts(ExactMatch(), whole)
    assert counts(ExactMatch(), whole) == (sum(p == r for p, r in pairs), len(pairs))


def test_a_batch_without_targets_changes_nothing() -> None:
    logits, targets = made((3, 4))
    nothing = logits, torch.full((3, 4), NO)
    for kind in (MaskedAccuracy, Perplexity):
        with_nothing = value_of(kind(), nothing, (logits, targets), nothing)
        assert with_nothing == value_of(kind(), (logits, targets))


def test_calling_a_metric_gives_the_value_of_the_batch_and_counts_it() -> None:
    metric = MaskedAccuracy()
    logits = torch.eye(V)
    assert metric(logits[:2], torch.tensor([0, 0])).item() == 0.5
    assert metric(logits[:3], torch.tensor([0, 1, 2])).item() == 1.0
    assert metric.compute().item() == pytest.approx(4 / 5)


# Over ranks


METRICS = [MaskedAccuracy, Perplexity]


@pytest.mark.parametrize("kind", METRICS)
def test_merging_two_metrics_gives_that_of_all_the_data(kind: type[Ratio]) -> None:
    one, two = made((5, 4), seed=1), made((2, 3), seed=2)
    first, second, both = kind(), kind(), kind()
    first.update(*one)
    second.update(*two)
    first.merge_state(second)
    assert value_of(both, one, two) == pytest.approx(float(first.compute()))
    assert (first.total.item(), first.count.item()) == (
        pytest.approx(both.total.item()),
        both.count.item(),
    )


@pytest.mark.parametrize("kind", METRICS)
def test_reducing_over_two_ranks_gives_that_of_all_the_data(kind: type[Ratio]) -> None:
    one, two = made((5, 4), seed=1), made((2, 3), seed=2)
    first, second = kind(), kind()
    first.update(*one)
    second.update(*two)
    of_the_other_rank = iter([second.total, second.count])
    first.sync(
        dist_sync_fn=lambda state, group: [state, next(of_the_other_rank)],
        distributed_available=lambda: True,
    )
    assert float(first.total / first.count) == (
        pytest.approx(value_of(MaskedAccuracy(), one, two))
        if kind is MaskedAccuracy
        else pytest.approx(math.log(value_of(Perplexity(), one, two)))
    )


@pytest.mark.parametrize("kind", [Ratio, ExactMatch, *METRICS])
def test_all_states_are_added_over_ranks(kind: type[Ratio]) -> None:
    states = torch.tensor([2, 3])
    reductions = kind()._reductions
    assert set(reductions) == {"total", "count"}
    for reduction in reductions.values():
        assert callable(reduction)
        assert reduction(states) == 5


# Nothing


@pytest.mark.parametrize("metric", [Ratio(), ExactMatch(), MaskedAccuracy(), Perplexity()])
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_of_nothing_there_is_no_value(metric: Ratio) -> None:
    assert metric.compute().isnan()


def test_of_ignored_tokens_there_is_no_value() -> None:
    nothing = torch.zeros(2, 3, V), torch.full((2, 3), NO)
    assert math.isnan(value_of(MaskedAccuracy(), nothing))
    assert math.isnan(value_of(Perplexity(), nothing))
    assert math.isnan(value_of(ExactMatch(), ([], [])))


def test_undefined_logits_at_ignored_positions_are_not_counted() -> None:
    logits, targets = made((3, 4))
    spoilt = logits.masked_fill((targets == NO)[..., None], float("nan"))
    assert (targets == NO).any()
    for kind in METRICS:
        assert value_of(kind(), (spoilt, targets)) == value_of(kind(), (logits, targets))


def test_after_a_reset_counting_starts_from_nothing() -> None:
    metric = MaskedAccuracy()
    metric.update(*made((5, 4), seed=1))
    metric.reset()
    assert (metric.total.item(), metric.count.item()) == (0, 0)
    assert value_of(metric, made((2, 3))) == value_of(MaskedAccuracy(), made((2, 3)))


def test_every_metric_of_ours_says_which_direction_is_better() -> None:
    more = {"top": MaskedAccuracy(), "bleu": Bleu(), "ppl": Perplexity(), "own": NoDirection()}
    metrics = EvaluationMetrics(more, generates=True, counts_bytes=True)
    assert {name: metrics.higher_is_better(name) for name in metrics.names} == {
        **{"loss": False, "accuracy": True, "perplexity": False, "bits_per_byte": False},
        **{"exact_match": True, "top": True, "bleu": True, "ppl": False, "own": None},
    }
    assert Chrf.higher_is_better


def test_a_further_metric_may_have_the_name_of_one_of_ours_and_its_own_direction() -> None:
    metrics = EvaluationMetrics({"loss": MaskedAccuracy()}, generates=False)
    assert metrics.higher_is_better("loss")


@pytest.mark.bad_input
@pytest.mark.parametrize("shape", [(4,), (4, 3)])
def test_a_metric_that_cant_count_a_task_is_named(shape: tuple[int, ...]) -> None:
    """Fewer classes than guesses; several classes of each."""
    metrics = EvaluationMetrics({"top5": MaskedAccuracy(top_k=5)}, generates=False)
    with pytest.raises(UserError, match=r"metrics.top5 \(MaskedAccuracy\) can't count.*leave it"):
        metrics.update_tokens(torch.zeros(4, 3), torch.zeros(shape, dtype=torch.long))


def test_top_k_must_be_positive() -> None:
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        MaskedAccuracy(top_k=0)


def test_bits_per_byte_is_the_loss_of_all_targets_over_the_bytes_of_text() -> None:
    metrics = EvaluationMetrics({}, generates=False, counts_bytes=True)
    for bits, tokens, size in [(5.0, 2, 4), (7.0, 2, 3), (0.0, 0, 0), (9.0, 1, None)]:
        sums = TargetSums(torch.tensor(bits * math.log(2)), torch.tensor(0))
        metrics.update_sums(sums, tokens, size)
    assert float(metrics.values()["bits_per_byte"]) == pytest.approx(12 / 7)
    assert float(metrics.values()["loss"]) == pytest.approx(21 / 5 * math.log(2))
    metrics.reset()
    assert metrics.values()["bits_per_byte"].isnan()
    assert "bits_per_byte" not in EvaluationMetrics({}, generates=False).values()
    assert not BitsPerByte().state_dict()  # checkpoints stay as they were


def test_a_metric_of_texts_needs_generation() -> None:
    with pytest.raises(ValueError, match=r"metrics\.bleu .* set task.max_new_tokens"):
        EvaluationMetrics({"bleu": Bleu()}, generates=False)
    assert "exact_match" in EvaluationMetrics({"bleu": Bleu()}, generates=True).values()


def test_metrics_of_texts_and_of_tokens_get_their_own() -> None:
    metrics = EvaluationMetrics({"bleu": Bleu(), "top": MaskedAccuracy()}, generates=True)
    assert metrics.reads_logits
    metrics.update_texts(["a b c d"], ["a b c d"])
    metrics.update_tokens(torch.eye(3), torch.tensor([0, 1, 0]))
    values = metrics.values()
    assert float(values["bleu"]) == pytest.approx(100)
    assert float(values["top"]) == pytest.approx(2 / 3)
    assert not EvaluationMetrics({"bleu": Bleu()}, generates=True).reads_logits


@pytest.mark.parametrize("generates", [True, False])
@pytest.mark.parametrize("counts_bytes", [False, True])
def test_names_are_those_of_the_values(generates: bool, counts_bytes: bool) -> None:
    metrics = EvaluationMetrics(
        {"top": MaskedAccuracy()}, generates=generates, counts_bytes=counts_bytes
    )
    metrics.update_tokens(torch.eye(3), torch.tensor([0, 1, 0]))
    assert sorted(metrics.names) == sorted(metrics.values())


class Several(NoDirection):
    higher_is_better = (True, False)  # pyright: ignore

    def compute(self) -> dict[str, Tensor]:  # pyright: ignore
        return {"a": torch.ones(()), "b": torch.ones(())}


class PerClass(NoDirection):
    def compute(self) -> Tensor:
        return torch.ones(3)


@pytest.mark.bad_input
@pytest.mark.parametrize("metric", [Several(), PerClass()])
def test_a_metric_of_several_numbers_is_refused_by_name(metric: Metric) -> None:
    metrics = EvaluationMetrics({"own": metric}, generates=False)
    assert metrics.higher_is_better("own") is None
    with pytest.raises(UserError, match=r"metrics\.own \((Several|PerClass)\) gives .*one number"):
        metrics.values()
