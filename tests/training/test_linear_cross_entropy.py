"""Output layer and loss in one, against torch's two steps; gradients against autograd's."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from everytoken.training import linear_cross_entropy as linear_loss
from everytoken.training.linear_cross_entropy import linear_cross_entropy

few = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=["as it is", "small"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunks as they are, and so small that few tokens make several."""
    if request.param == "small":
        monkeypatch.setattr(linear_loss, "CHUNK_TOKENS", 3)
        monkeypatch.setattr(linear_loss, "CHUNK_LOGITS", 10)
        monkeypatch.setattr(linear_loss, "CACHED_LOGITS", 20)


class Case(NamedTuple):
    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        return [x for x in self[:3] if x is not None]


def make_case(
    tokens: int,
    vocabulary: int,
    *,
    seed: int = 0,
    with_bias: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.to(dtype).requires_grad_()

    return Case(
        random(tokens, 5),
        random(vocabulary, 5),
        random(vocabulary) if with_bias else None,
        torch.randint(vocabulary, (tokens,), generator=generator),
    )


def reference(case: Case, label_smoothing: float, z_loss: float) -> Tensor:
    logits = F.linear(*case[:3])
    losses = F.cross_entropy(
        logits, case.targets, label_smoothing=label_smoothing, reduction="none"
    )
    return (losses + z_loss * logits.logsumexp(-1) ** 2).sum()


@pytest.mark.usefixtures("sizes")
@few
@given(
    tokens=st.integers(0, 12),
    vocabulary=st.integers(1, 30),
    seed=st.integers(0, 99),
    label_smoothing=st.sampled_from([0.0, 0.1, 0.7]),
    z_loss=st.sampled_from([0.0, 0.01]),
    with_bias=st.booleans(),
)
def test_loss_hits_and_gradients_are_those_of_two_steps(
    tokens: int,
    vocabulary: int,
    seed: int,
    label_smoothing: float,
    z_loss: float,
    with_bias: bool,
) -> None:
    case = make_case(tokens, vocabulary, seed=seed, with_bias=with_bias)
    expected = reference(case, label_smoothing, z_loss)
    loss, hits = linear_cross_entropy(*case, label_smoothing, z_loss)
    assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert hits == (F.linear(*case[:3]).argmax(-1) == case.targets).sum()
    # The factor is what a step does: divide by the target tokens of the global batch.
    found = torch.autograd.grad(loss * 0.25, case.leaves)
    assert_close(found, torch.autograd.grad(expected * 0.25, case.leaves), rtol=1e-11, atol=1e-12)


@pytest.mark.usefixtures("sizes")
def test_float32_loses_no_more_than_its_rounding() -> None:
    exact, case = make_case(50, 40), make_case(50, 40, dtype=torch.float32)
    loss, _ = linear_cross_entropy(*case, 0.1, 0.0)
    assert loss.dtype == torch.float64
    expected = reference(exact, 0.1, 0.0)
    assert_close(loss, expected, rtol=1e-6, atol=0)
    found = torch.autograd.grad(loss, case.leaves)
    assert all(gradient.dtype == torch.float32 for gradient in found)
    right = torch.autograd.grad(expected, exact.leaves)
    for a, b in zip(found, right, strict=True):
        assert (a - b).norm() / b.norm() < 1e-6


@pytest.mark.usefixtures("sizes")
def test_autocast_decides_the_precision_of_the_products() -> None:
    exact, case = make_case(50, 40), make_case(50, 40, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = linear_cross_entropy(*case, 0.1, 0.0)
    plain, _ = linear_cross_entropy(*case, 0.1, 0.0)
    assert loss != plain
    expected = reference(exact, 0.1, 0.0)
    assert_close(loss, expected, rtol=2**-8, atol=0)
    found, right = (
        torch.autograd.grad(total, leaves)
        for total, leaves in ((loss, case.leaves), (expected, exact.leaves))
    )
    for a, b in zip(found, right, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() / b.norm() < 4 * 2**-8


@given(
    scores=st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=1, max_size=6),
    target=st.integers(0, 3),
    on_cpu=st.booleans(),
)
@few
def test_of_equally_likely_tokens_the_first_is_the_one_that_counts(
    scores: list[list[int]], target: int, on_cpu: bool
) -> None:
    # As `argmax` finds it, by which evaluation counts. In bfloat16 such equals are common.
    logits = torch.tensor(scores, dtype=torch.float32)
    targets = torch.full((len(scores),), target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_loss, "_is_on_cpu", lambda _: on_cpu)
        _, hits = linear_cross_entropy(logits, torch.eye(4), None, targets, 0.0, 0.0)
    assert hits == sum(row.index(max(row)) == target for row in scores)


def test_extreme_logits_give_the_loss_and_not_infinity() -> None:
    # The target's chance is exp(-400): no float32 holds it.
    weight = torch.tensor([[400.0], [0.0], [0.0]], requires_grad=True)
    hidden = torch.ones(1, 1, requires_grad=True)
    loss, hits = linear_cross_entropy(hidden, weight, None, torch.tensor([2]), 0.0, 0.0)
    assert (loss.item(), hits.item()) == (400.0, 0)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1.0], [0.0], [-1.0]]


def test_without_tokens_loss_and_gradient_are_zero() -> None:
    case = make_case(0, 7)
    loss, hits = linear_cross_entropy(*case, 0.1, 0.0)
    assert (loss.item(), hits.item()) == (0.0, 0)
    hidden, weight = torch.autograd.grad(loss, case.leaves)
    assert hidden.shape == (0, 5)
    assert torch.equal(weight, torch.zeros(7, 5, dtype=torch.float64))


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_needs_no_gradient_gets_none(frozen: int) -> None:
    case = make_case(4, 6)
    still, trained = case.leaves[frozen], case.leaves[1 - frozen]
    still.requires_grad_(False)
    loss, _ = linear_cross_entropy(*case, 0.0, 0.0)
    loss.backward()
    assert still.grad is None
    (expected,) = torch.autograd.grad(reference(case, 0.0, 0.0), trained)
    assert_close(trained.grad, expected)


def test_evaluation_has_no_gradient_and_leaves_no_trace() -> None:
    case = make_case(4, 6)
    with torch.no_grad():
        loss, _ = linear_cross_entropy(*case, 0.0, 0.0)
    assert not loss.requires_grad
    assert_close(loss, reference(case, 0.0, 0.0).detach(), rtol=1e-12, atol=0)


def test_the_logits_never_exist_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_loss, "CHUNK_TOKENS", 3)
    monkeypatch.setattr(linear_loss, "CHUNK_LOGITS", 8 * 6)
    sizes = []

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        sizes.append(len(x))
        return nn.functional.linear(x, weight, bias)

    monkeypatch.setattr(linear_loss, "F", type("F", (), {"linear": staticmethod(linear)}))
    linear_cross_entropy(*make_case(20, 6), 0.0, 0.0)
    assert sizes == [8, 8, 4]


def test_large_vocabularies_are_still_multiplied_by_many_tokens_at_once() -> None:
    assert linear_loss.CHUNK_TOKENS >= 256
