"""Norm, SwiGLU and dropout against torch's, and dropout's chance."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from everytoken.model.layers import Dropout, RMSNorm, TokenDropout, swiglu

few = settings(max_examples=30, deadline=None)


@few
@given(rows=st.integers(0, 5), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_norm_and_its_gradient_are_torchs(rows: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    norm = RMSNorm(width, 1e-3).double()
    with torch.no_grad():
        norm.weight.normal_(generator=generator)
    x, weight = (torch.randn(rows, width, generator=generator).double() for _ in range(2))
    x.requires_grad_()
    out, expected = norm(x), F.rms_norm(x, (width,), norm.weight, 1e-3)
    assert_close(out, expected, rtol=1e-12, atol=1e-12)
    found, right = (
        torch.autograd.grad((y * weight).sum(), (x, norm.weight)) for y in (out, expected)
    )
    assert_close(found, right, rtol=1e-10, atol=1e-12)


@few
@given(rows=st.integers(0, 5), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_swiglu_and_its_gradient_are_those_of_its_formula(rows: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, weight = (torch.randn(rows, n, generator=generator).double() for n in (2 * width, width))
    x.requires_grad_()
    out, expected = swiglu(x), x[:, :width] * x[:, :width].sigmoid() * x[:, width:]
    assert_close(out, expected, rtol=1e-12, atol=1e-12)
    found, right = (torch.autograd.grad((y * weight).sum(), x) for y in (out, expected))
    assert_close(found, right, rtol=1e-10, atol=1e-12)


def test_swiglu_keeps_half_precision() -> None:
    x = torch.randn(3, 8, dtype=torch.bfloat16, requires_grad=True)
    out = swiglu(x)
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_a_row_of_zeros_stays_zero_and_has_a_finite_gradient() -> None:
    x = torch.zeros(1, 4, requires_grad=True)
    out = RMSNorm(4, 1e-6)(x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(out, torch.zeros(1, 4))
    assert_close(x.grad, torch.full((1, 4), 1e3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_keeps_shape_and_type(dtype: torch.dtype) -> None:
    x = torch.randn(3, 4, dtype=dtype)
    assert RMSNorm(4, 1e-6).to(dtype)(x).dtype == dtype


def test_under_autocast_the_norm_is_rounded_once_for_all_products() -> None:
    norm, x = RMSNorm(8, 1e-6), torch.randn(3, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, norm(x).bfloat16())
    out.sum().backward()
    for leaf in (x, norm.weight):
        assert leaf.grad is not None
        assert leaf.grad.dtype == torch.float32


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_scales_the_rest(p: float) -> None:
    torch.manual_seed(0)
    out = Dropout(p)(torch.ones(1000, 1000))
    kept = out != 0
    assert abs(float(kept.float().mean()) - (1 - p)) < 2e-3
    scale = out[kept].unique()
    assert len(scale) == 1
    assert abs(float(scale) * (1 - p) - 1) < 2e-4  # p is rounded to 1/65536
    # Neighbours share a draw of 64 bits; their fates must not be related.
    pairs = (kept[:, :-1] & kept[:, 1:]).float().mean()
    assert abs(float(pairs) - (1 - p) ** 2) < 3e-3


def test_the_extremes_of_the_sixteen_bits_are_on_their_own_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # p = 1/2: -32768 to -1 drop, 0 to 32767 keep. The four bytes' worth of one draw, in order.
    draws = torch.tensor([-32768, -1, 0, 32767], dtype=torch.int16).view(torch.int64)
    monkeypatch.setattr(torch.Tensor, "random_", lambda self, *_: draws.clone())
    assert Dropout(0.5)(torch.ones(4)).tolist() == [0, 0, 2, 2]


def test_gradients_pass_where_the_value_does() -> None:
    torch.manual_seed(0)
    x = torch.ones(100, requires_grad=True)
    out = Dropout(0.3)(x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out.detach())


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_any_number_of_channels_can_be_dropped(count: int) -> None:
    assert Dropout(0.5)(torch.ones(count)).shape == (count,)


def test_the_seed_decides_what_is_dropped() -> None:
    def drop(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return Dropout(0.5)(torch.ones(100))

    assert torch.equal(drop(1), drop(1))
    assert not torch.equal(drop(1), drop(2))


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_evaluation_drops_nothing(p: float) -> None:
    x = torch.randn(5)
    assert torch.equal(Dropout(p).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_keeps_the_type(dtype: torch.dtype) -> None:
    assert Dropout(0.1)(torch.ones(8, dtype=dtype)).dtype == dtype


def test_token_dropout_hides_whole_tokens_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.randn(20_000, 3)
    out = TokenDropout(0.25)(x)
    hidden = (out == 0).all(-1)
    torch.testing.assert_close(out[~hidden], x[~hidden] / 0.75)
    assert abs(float(hidden.float().mean()) - 0.25) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_token_dropout_keeps_the_type_and_any_number_of_tokens(dtype: torch.dtype) -> None:
    for count in (0, 1, 5):
        out = TokenDropout(0.5)(torch.ones(count, 4, dtype=dtype))
        assert out.dtype == dtype
        assert out.shape == (count, 4)


def test_evaluation_hides_no_token() -> None:
    x = torch.randn(50, 4)
    assert torch.equal(TokenDropout(0.9).eval()(x), x)
    assert torch.equal(TokenDropout(0.0)(x), x)
