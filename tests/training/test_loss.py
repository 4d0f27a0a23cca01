"""The masked cross-entropy: target tokens count once each, everything else not at all."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from everytoken import MaskedAccuracy
from everytoken.batch import IGNORE_INDEX
from everytoken.training.loss import masked_cross_entropy, target_sums
from support.helpers import reference_loss

NO = IGNORE_INDEX
BIT = math.log(2)
REDUCTIONS = ["mean", "sum", "none"]

few = settings(max_examples=50, deadline=None)


def made(
    shape: tuple[int, ...],
    vocabulary: int,
    *,
    ignored: float,
    ignore_index: int = NO,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Random logits (…, V) and targets (…), a share of them ignored."""
    chance = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*shape, vocabulary, generator=chance, dtype=dtype)
    targets = torch.randint(vocabulary, shape, generator=chance)
    is_ignored = torch.rand(shape, generator=chance) < ignored
    return logits, targets.masked_fill(is_ignored, ignore_index)


def loss_and_gradient(loss_of: Any, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and the gradient of its sum."""
    logits = logits.detach().clone().requires_grad_()
    loss = loss_of(logits)
    loss.sum().backward()
    assert logits.grad is not None
    return loss.detach(), logits.grad


def peer(logits: Tensor, targets: Tensor, **options: Any) -> Tensor:
    """F.cross_entropy, which wants the vocabulary in the second dimension."""
    rows = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), **options)
    return rows.view(targets.shape) if options["reduction"] == "none" else rows


# The worked example: 2 sequences of 4 and 3 tokens, padded to 5; 7 of 10 positions are real

PADDED = torch.tensor([[1, 5, 4, 2, 0], [3, 8, 7, 0, 0]])  # the padding id is 0
IS_REAL = torch.arange(5) < torch.tensor([[4], [3]])
TARGETS = PADDED.where(IS_REAL, NO)


def logits_of(chances: list[list[float]]) -> Tensor:
    """Logits (2, 5, 10) that give each token of PADDED its chance, and the others the rest."""
    chance = torch.tensor(chances)[..., None]
    is_right = F.one_hot(PADDED, 10).bool()
    return torch.where(is_right, chance, (1 - chance) / 9).log()


def test_the_loss_is_the_mean_over_exactly_the_real_tokens() -> None:
    # Bits per real token: 1 2 3 1 and 2 1 3, together 13. Per padded token: 3, together 9.
    logits = logits_of([[1 / 2, 1 / 4, 1 / 8, 1 / 2, 1 / 8], [1 / 4, 1 / 2, 1 / 8, 1 / 8, 1 / 8]])
    assert masked_cross_entropy(logits, TARGETS).item() == pytest.approx(13 / 7 * BIT)
    assert masked_cross_entropy(logits, TARGETS, reduction="sum").item() == pytest.approx(13 * BIT)

    counted_with_padding = F.cross_entropy(logits.view(10, 10), PADDED.view(10)).item()
    assert counted_with_padding == pytest.approx((13 + 9) / 10 * BIT)
    assert counted_with_padding != pytest.approx(13 / 7 * BIT)


def test_the_loss_is_the_same_whatever_is_predicted_on_padding() -> None:
    real = [[1 / 2, 1 / 4, 1 / 8, 1 / 2], [1 / 4, 1 / 2, 1 / 8]]
    losses = {
        masked_cross_entropy(
            logits_of([[*real[0], padding], [*real[1], padding, padding]]), TARGETS
        ).item()
        for padding in (0.001, 0.1, 0.999)
    }
    assert len(losses) == 1


def test_one_position_without_a_target_has_no_loss_of_its_own() -> None:
    logits = logits_of([[1 / 2] * 5, [1 / 4] * 5])
    losses = masked_cross_entropy(logits, TARGETS, reduction="none")
    expected = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0], [2.0, 2.0, 2.0, 0.0, 0.0]]) * BIT
    torch.testing.assert_close(losses, expected)


def test_padding_flatters_or_dilutes_an_accuracy_that_counts_it() -> None:
    right = [[True, True, False, True], [False, True, False]]  # 4 of the 7 real tokens

    def accuracies(pads: bool) -> tuple[Tensor, Tensor, int]:
        """With padding left out, with padding counted, and hits counted by `target_sums`."""
        is_right = torch.tensor([[*right[0], pads], [*right[1], pads, pads]])
        logits = F.one_hot(torch.where(is_right, PADDED, 9), 10).float()
        masked, counting = MaskedAccuracy(), MaskedAccuracy()
        masked.update(logits, TARGETS)
        counting.update(logits, PADDED)
        sums = target_sums(logits[IS_REAL], nn.Identity(), TARGETS[IS_REAL], 0.0)
        return masked.compute(), counting.compute(), int(sums.correct)

    masked, counting, hits = accuracies(pads=True)  # predicts padding wherever there is some
    assert (masked.item(), counting.item(), hits) == (pytest.approx(4 / 7), pytest.approx(0.7), 4)
    masked, counting, hits = accuracies(pads=False)  # never predicts padding
    assert (masked.item(), counting.item(), hits) == (pytest.approx(4 / 7), pytest.approx(0.4), 4)


def test_a_real_token_with_the_id_of_the_padding_is_counted() -> None:
    # The last real token of the first sequence is 0 as well: to find padding by its id loses it.
    padded = torch.tensor([[1, 5, 4, 0, 0], [3, 8, 7, 0, 0]])
    logits = torch.zeros(2, 5, 10)
    assert masked_cross_entropy(logits, padded.where(IS_REAL, NO), reduction="sum").item() == (
        pytest.approx(7 * math.log(10))
    )
    assert masked_cross_entropy(logits, padded, ignore_index=0, reduction="sum").item() == (
        pytest.approx(6 * math.log(10))
    )


# Like F.cross_entropy, where that is defined


@few
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    vocabulary=st.integers(1, 9),
    label_smoothing=st.sampled_from([0.0, 0.1, 0.9]),
    reduction=st.sampled_from(REDUCTIONS),
    ignore_index=st.sampled_from([NO, -1, 0, 3, 999]),
    seed=st.integers(0, 999),
)
def test_loss_and_gradient_are_those_of_torch(
    shape: tuple[int, ...],
    vocabulary: int,
    label_smoothing: float,
    reduction: Any,
    ignore_index: int,
    seed: int,
) -> None:
    logits, targets = made(
        shape,
        vocabulary,
        ignored=0.3,
        ignore_index=ignore_index,
        seed=seed,
        dtype=torch.float64,
    )
    if (targets == ignore_index).all():
        # Torch's mean isn't defined here (see the tests on what is undefined elsewhere).
        targets.flatten()[0] = vocabulary - 1 if ignore_index == 0 else 0
        if vocabulary == 1 and ignore_index == 0:
            return
    options: dict[str, Any] = {
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "reduction": reduction,
    }
    ours, our_gradient = loss_and_gradient(
        lambda x: masked_cross_entropy(x, targets, **options), logits
    )
    theirs, their_gradient = loss_and_gradient(lambda x: peer(x, targets, **options), logits)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-12, atol=1e-14)


@few
@given(
    label_smoothing=st.sampled_from([0.0, 0.2]),
    ignored=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 999),
)
def test_loss_is_that_of_a_plain_loop_over_tokens(
    label_smoothing: float, ignored: float, seed: int
) -> None:
    logits, targets = made((3, 4), 6, ignored=ignored, seed=seed, dtype=torch.float64)
    losses = reference_loss(logits, targets, label_smoothing)
    total = masked_cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="sum")
    mean = masked_cross_entropy(logits, targets, label_smoothing=label_smoothing)
    assert total.item() == pytest.approx(sum(losses))
    assert mean.item() == pytest.approx(sum(losses) / max(len(losses), 1))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(reduction: Any, dtype: torch.dtype) -> None:
    logits, targets = made((4, 50), 30, ignored=0.3, dtype=dtype)
    ours, gradient = loss_and_gradient(
        lambda x: masked_cross_entropy(x, targets, reduction=reduction), logits
    )
    assert ours.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(ours, peer(logits.float(), targets, reduction=reduction))


def test_float64_logits_are_computed_in_float64() -> None:
    logits, targets = made((20,), 7, ignored=0.3, dtype=torch.float64)
    loss = masked_cross_entropy(logits, targets)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(peer(logits, targets, reduction="mean").item(), rel=1e-14)
    assert loss.item() != pytest.approx(masked_cross_entropy(logits.float(), targets).item(), 1e-14)


@pytest.mark.parametrize("head", [nn.Linear(4, 6), nn.Sequential(nn.Linear(4, 6))])
def test_a_head_of_float64_has_a_loss_of_float64(head: nn.Module) -> None:
    """By the fused and by the plain way."""
    hidden, targets = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 5])
    logits = (head := head.double())(hidden)
    expected = F.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(
        target_sums(hidden, head, targets).loss, expected, rtol=1e-14, atol=0
    )


def test_mean_is_the_default_as_it_is_in_torch() -> None:
    logits, targets = made((5,), 4, ignored=0.3)
    torch.testing.assert_close(
        masked_cross_entropy(logits, targets), F.cross_entropy(logits, targets)
    )


# Where others are undefined


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(2, 3), (0,), (2, 0)])
def test_without_targets_loss_and_gradient_are_zero(
    shape: tuple[int, ...], label_smoothing: float, reduction: Any
) -> None:
    logits, _ = made(shape, 5, ignored=0.0)
    targets = torch.full(shape, NO)
    loss, gradient = loss_and_gradient(
        lambda x: masked_cross_entropy(
            x, targets, label_smoothing=label_smoothing, reduction=reduction
        ),
        logits,
    )
    assert torch.equal(loss, torch.zeros(shape if reduction == "none" else ()))
    assert torch.equal(gradient, torch.zeros_like(logits))
    assert peer(logits, targets, reduction="mean").isnan()  # what this spares the caller


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_undefined_logits_at_ignored_positions_reach_neither_loss_nor_gradient(
    bad: float, label_smoothing: float, reduction: Any
) -> None:
    logits, targets = made((3, 4), 5, ignored=0.4)
    is_ignored = targets == NO
    assert is_ignored.any()
    spoilt = logits.clone()
    spoilt[is_ignored] = bad
    spoilt[is_ignored, 0] = 1.0

    def loss_of(x: Tensor) -> Tensor:
        return masked_cross_entropy(
            x, targets, label_smoothing=label_smoothing, reduction=reduction
        )

    loss, gradient = loss_and_gradient(loss_of, spoilt)
    clean_loss, clean_gradient = loss_and_gradient(loss_of, logits)
    assert torch.equal(loss, clean_loss)
    assert torch.equal(gradient, clean_gradient)
    assert not gradient[is_ignored].any()


def test_undefined_logits_at_a_target_are_not_hidden() -> None:
    logits, targets = made((4,), 5, ignored=0.0)
    logits[1] = float("nan")
    assert masked_cross_entropy(logits, targets).isnan()


def test_the_logits_are_left_as_they_were() -> None:
    logits, targets = made((3, 4), 5, ignored=0.5)
    before = logits.clone()
    masked_cross_entropy(logits, targets)
    assert torch.equal(logits, before)


# Label smoothing


def test_smoothing_spreads_its_share_over_the_whole_vocabulary() -> None:
    # Bits 1, 2, 3, 3; the target is the first: 0.6 of 1, and 0.1 of each of the four.
    logits = torch.tensor([[1 / 2, 1 / 4, 1 / 8, 1 / 8]]).log()
    loss = masked_cross_entropy(logits, torch.tensor([0]), label_smoothing=0.4)
    assert loss.item() == pytest.approx((0.6 * 1 + 0.1 * (1 + 2 + 3 + 3)) * BIT)


@pytest.mark.parametrize("label_smoothing", [0.1, 0.5, 1.0])
def test_smoothing_averages_over_target_tokens_only(label_smoothing: float) -> None:
    logits, targets = made((3, 4), 6, ignored=0.5, dtype=torch.float64)
    is_target = targets != NO
    assert 0 < is_target.sum() < 12
    loss, gradient = loss_and_gradient(
        lambda x: masked_cross_entropy(x, targets, label_smoothing=label_smoothing), logits
    )
    alone = F.cross_entropy(logits[is_target], targets[is_target], label_smoothing=label_smoothing)
    torch.testing.assert_close(loss, alone)
    assert not gradient[~is_target].any()
    assert gradient[is_target].all()


# Bad arguments


@pytest.mark.parametrize("shape", [(2, 2), (2,), (2, 3, 5), (3, 2)])
def test_shapes_that_do_not_fit_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"logits have shape \(2, 3, 5\), targets .* expected"):
        masked_cross_entropy(torch.zeros(2, 3, 5), torch.zeros(shape, dtype=torch.int64))


def test_an_unknown_reduction_is_named() -> None:
    wrong: Any = "average"
    with pytest.raises(ValueError, match=r"reduction must be .*, got 'average'"):
        masked_cross_entropy(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64), reduction=wrong)


@pytest.mark.parametrize("target", [-1, 5])
def test_a_target_outside_the_vocabulary_is_an_error(target: int) -> None:
    with pytest.raises(IndexError, match="out of bounds"):
        masked_cross_entropy(torch.zeros(1, 5), torch.tensor([target]))


# Sums for training


@few
@given(
    count=st.integers(0, 8),
    label_smoothing=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 999),
)
def test_sums_are_those_of_a_plain_loop_over_tokens(
    count: int, label_smoothing: float, seed: int
) -> None:
    torch.manual_seed(seed)
    head = nn.Linear(4, 7)
    hidden, targets = torch.randn(count, 4), torch.randint(7, (count,))
    sums = target_sums(hidden, head, targets, label_smoothing)
    logits = head(hidden)
    assert sums.loss.dtype == torch.float64
    assert sums.loss.item() == pytest.approx(
        sum(reference_loss(logits, targets, label_smoothing)), rel=1e-5, abs=1e-5
    )
    best = [max(range(7), key=row.__getitem__) for row in logits.tolist()]
    assert sums.correct.dtype == torch.int64
    assert sums.correct.item() == sum(b == t for b, t in zip(best, targets.tolist(), strict=True))


def test_the_sum_carries_the_gradient_of_the_summed_loss() -> None:
    torch.manual_seed(0)
    head = nn.Linear(4, 7)
    hidden, targets = torch.randn(5, 4, requires_grad=True), torch.randint(7, (5,))
    inputs = (hidden, head.weight, head.bias)
    ours = torch.autograd.grad(target_sums(hidden, head, targets, 0.1).loss, inputs)
    loss = F.cross_entropy(head(hidden), targets, label_smoothing=0.1, reduction="sum")
    assert loss.item() == pytest.approx(target_sums(hidden, head, targets, 0.1).loss.item())
    for our, their in zip(ours, torch.autograd.grad(loss, inputs), strict=True):
        torch.testing.assert_close(our, their)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_sums_of_no_target_are_zero_with_a_zero_gradient_for_every_weight(
    label_smoothing: float,
) -> None:
    head = nn.Linear(4, 7)
    hidden = torch.randn(0, 4, requires_grad=True)
    sums = target_sums(hidden, head, torch.zeros(0, dtype=torch.int64), label_smoothing)
    assert (sums.loss.item(), sums.correct.item()) == (0, 0)
    sums.loss.backward()
    assert hidden.grad is not None
    for weight in head.parameters():
        assert weight.grad is not None
        assert not weight.grad.any()


def test_the_losses_of_half_precision_hidden_states_are_not_rounded() -> None:
    # 4000 losses of log(2) each: bfloat16 would stop counting at 256.
    head = nn.Linear(1, 2, bias=False).bfloat16()
    sums = target_sums(
        torch.zeros(4000, 1, dtype=torch.bfloat16), head, torch.zeros(4000, dtype=torch.int64), 0.0
    )
    assert sums.loss.item() == pytest.approx(4000 * BIT, rel=1e-6)


def test_sums_do_not_depend_on_which_tokens_share_a_micro_batch() -> None:
    # Far closer than float32, in which a sum of 5000 losses is off by about 1e-7 of it.
    logits, targets = made((5000,), 7, ignored=0.0)
    whole = target_sums(logits, nn.Identity(), targets, 0.1)
    parts = [
        target_sums(rows, nn.Identity(), labels, 0.1)
        for rows, labels in zip(logits.split(617), targets.split(617), strict=True)
    ]
    assert sum(part.loss.item() for part in parts) == pytest.approx(whole.loss.item(), rel=1e-13)
    assert sum(part.correct.item() for part in parts) == whole.correct.item()
