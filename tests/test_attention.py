"""Attention against a naive loop over sequences and heads, rotary positions, and the cache."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from everytoken.attention import Attention, KeyValueCache, Rotary, attend, rotate
from everytoken.unpad import Borders, unpad

few = settings(max_examples=30, deadline=None)


def borders_of(lengths: list[int], more: int = 0) -> Borders:
    """Borders of sequences that were padded `more` positions beyond the longest."""
    ids = torch.zeros(len(lengths), max(lengths) + more, dtype=torch.int64)
    return unpad(ids, torch.tensor(lengths), sum(lengths), "right")[1]


def random_tokens(count: int, heads: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, heads, width, generator=generator, dtype=torch.float64)


def naive_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: list[int],
    keys: list[int],
    *,
    causal: bool,
) -> Tensor:
    """softmax(q k / sqrt(W)) v, one sequence, one head and one token at a time."""
    group = query.shape[1] // key.shape[1]
    out = torch.zeros_like(query)
    for b, (length, seen) in enumerate(zip(queries, keys, strict=True)):
        first, first_seen = sum(queries[:b]), sum(keys[:b])
        for t in range(length):
            end = first_seen + (t + 1 if causal else seen)
            for head in range(query.shape[1]):
                k = key[first_seen:end, head // group]
                v = value[first_seen:end, head // group]
                scores = k @ query[first + t, head] / math.sqrt(query.shape[2])
                out[first + t, head] = scores.softmax(0) @ v
    return out


# attend


def test_equal_keys_share_the_attention_evenly() -> None:
    # Two sequences of 2 tokens and 1 token; all keys are alike, so each sees the plain average.
    query, key = torch.ones(3, 1, 2), torch.ones(3, 1, 2)
    value = torch.tensor([[[2.0, 0.0]], [[4.0, 8.0]], [[100.0, 100.0]]])
    borders = borders_of([2, 1])
    both = attend(query, key, value, borders, borders, causal=False)
    torch.testing.assert_close(both[:, 0], torch.tensor([[3.0, 4.0], [3.0, 4.0], [100.0, 100.0]]))
    causal = attend(query, key, value, borders, borders, causal=True)
    torch.testing.assert_close(causal[:, 0], torch.tensor([[2.0, 0.0], [3.0, 4.0], [100.0, 100.0]]))


@few
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    more=st.integers(0, 3),
    causal=st.booleans(),
    key_value_heads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_self_attention_is_that_of_a_loop_over_sequences(
    lengths: list[int], more: int, causal: bool, key_value_heads: int, seed: int
) -> None:
    count, borders = sum(lengths), borders_of(lengths, more)
    query = random_tokens(count, 4, 6, seed)
    key = random_tokens(count, key_value_heads, 6, seed + 1)
    value = random_tokens(count, key_value_heads, 6, seed + 2)
    expected = naive_attention(query, key, value, lengths, lengths, causal=causal)
    found = attend(query, key, value, borders, borders, causal=causal)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@few
@given(
    lengths=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4),
    more=st.integers(0, 3),
    key_value_heads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_cross_attention_is_that_of_a_loop_over_sequences(
    lengths: list[tuple[int, int]], more: int, key_value_heads: int, seed: int
) -> None:
    queries, keys = [q for q, _ in lengths], [k for _, k in lengths]
    query = random_tokens(sum(queries), 4, 6, seed)
    key = random_tokens(sum(keys), key_value_heads, 6, seed + 1)
    value = random_tokens(sum(keys), key_value_heads, 6, seed + 2)
    expected = naive_attention(query, key, value, queries, keys, causal=False)
    found = attend(query, key, value, borders_of(queries), borders_of(keys, more), causal=False)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_no_gradient_crosses_the_border_of_a_sequence(causal: bool) -> None:
    lengths = [3, 2, 4]
    borders = borders_of(lengths, more=2)
    query, key, value = (random_tokens(9, 2, 4, seed).requires_grad_() for seed in range(3))
    out = attend(query, key, value, borders, borders, causal=causal)
    (out[3:5] * random_tokens(2, 2, 4, 9)).sum().backward()  # the second sequence
    for part in (query, key, value):
        assert part.grad is not None
        touched = part.grad.abs().sum((1, 2)) > 0
        assert touched.tolist() == [False] * 3 + [True] * 2 + [False] * 4


def test_no_later_token_reaches_an_earlier_one_if_causal() -> None:
    borders = borders_of([4, 4])
    for t in range(4):
        query, key, value = (random_tokens(8, 2, 4, seed).requires_grad_() for seed in range(3))
        out = attend(query, key, value, borders, borders, causal=True)
        (out[4 + t] * random_tokens(1, 2, 4, 9)[0]).sum().backward()
        assert value.grad is not None
        touched = value.grad.abs().sum((1, 2)) > 0
        assert touched.tolist() == [False] * 4 + [position <= t for position in range(4)]


@pytest.mark.parametrize("causal", [True, False])
def test_a_sequence_without_tokens_makes_nothing_undefined(causal: bool) -> None:
    borders = borders_of([3, 0, 2])
    query, key, value = (random_tokens(5, 2, 4, seed).requires_grad_() for seed in range(3))
    out = attend(query, key, value, borders, borders, causal=causal)
    expected = naive_attention(query, key, value, [3, 0, 2], [3, 0, 2], causal=causal)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    out.sum().backward()
    for part in (query, key, value):
        assert part.grad is not None
        assert part.grad.isfinite().all()


# Rotary positions


def test_the_first_pair_turns_by_one_radian_per_position() -> None:
    positions = torch.arange(4)
    turned = rotate(torch.tensor([[[1.0, 0.0]]]).expand(4, 1, 2), Rotary(2, 10000.0)(positions))
    expected = torch.stack((positions.float().cos(), positions.float().sin()), dim=-1)
    torch.testing.assert_close(turned[:, 0], expected)


def test_channels_i_and_i_plus_half_form_a_pair_each_with_its_own_rate() -> None:
    # W = 4 and base 100: rates 1 and 1/10 radian per position. Position 2 of x = (1, 0, 0, 1).
    turned = rotate(torch.tensor([[[1.0, 0.0, 0.0, 1.0]]]), Rotary(4, 100.0)(torch.tensor([2])))
    expected = [math.cos(2), -math.sin(0.2), math.sin(2), math.cos(0.2)]
    torch.testing.assert_close(turned[0, 0], torch.tensor(expected))


def turned(x: Tensor, position: int) -> Tensor:
    """x (W,) at a position."""
    turn = Rotary(len(x), 100.0)(torch.tensor([position]))
    return rotate(x[None, None], turn)[0, 0]


@few
@given(
    first=st.integers(0, 200),
    second=st.integers(0, 200),
    shift=st.integers(0, 500),
    seed=st.integers(0, 99),
)
def test_dot_products_depend_on_the_difference_of_positions_only(
    first: int, second: int, shift: int, seed: int
) -> None:
    q, k = random_tokens(2, 1, 8, seed)[:, 0]
    here = turned(q, first) @ turned(k, second)
    there = turned(q, first + shift) @ turned(k, second + shift)
    torch.testing.assert_close(here, there, rtol=0, atol=5e-4)  # angles to 700 in float32


def test_dot_products_do_depend_on_the_difference_of_positions() -> None:
    q, k = random_tokens(2, 1, 8)[:, 0]
    products = [float(turned(q, n) @ turned(k, 0)) for n in (-2, -1, 0, 1, 2)]
    gaps = [abs(a - b) for i, a in enumerate(products) for b in products[:i]]
    assert min(gaps) > 1e-3


@few
@given(position=st.integers(0, 1000), seed=st.integers(0, 99))
def test_turning_keeps_the_norm(position: int, seed: int) -> None:
    x = random_tokens(1, 1, 8, seed)[0, 0]
    torch.testing.assert_close(turned(x, position).norm(), x.norm(), rtol=1e-6, atol=0)


def test_position_zero_does_not_turn() -> None:
    x = random_tokens(1, 1, 8)[0, 0]
    assert torch.equal(turned(x, 0), x)


def test_turning_keeps_the_type() -> None:
    x = torch.randn(3, 2, 4, dtype=torch.bfloat16)
    assert rotate(x, Rotary(4, 100.0)(torch.arange(3))).dtype == torch.bfloat16


def test_angles_are_exact_in_a_model_cast_to_half_precision() -> None:
    positions = torch.arange(1000)
    for half, full in zip(
        Rotary(8, 100.0).bfloat16()(positions), Rotary(8, 100.0)(positions), strict=True
    ):
        assert torch.equal(half, full)


def test_rates_are_no_weights() -> None:
    rotary = Rotary(8, 100.0)
    assert not list(rotary.parameters())
    assert not rotary.state_dict()


# The module, and one token at a time


def attention(key_value_heads: int) -> Attention:
    torch.manual_seed(0)
    return Attention(16, 4, key_value_heads).double()


def test_the_module_projects_attends_and_projects_back() -> None:
    module, lengths = attention(2), [3, 2]
    x, borders = random_tokens(5, 1, 16)[:, 0], borders_of([3, 2])
    turn = Rotary(4, 100.0)(borders.positions)
    key, value = (x @ module.key_value.weight.T).chunk(2, dim=-1)  # heads side by side
    query = rotate((x @ module.query.weight.T).view(5, 4, 4), turn)
    key, value = rotate(key.reshape(5, 2, 4), turn), value.reshape(5, 2, 4)
    mixed = naive_attention(query, key, value, lengths, lengths, causal=True)
    expected = mixed.flatten(1) @ module.output.weight.T
    torch.testing.assert_close(
        module(x, borders, turn, causal=True), expected, rtol=1e-10, atol=1e-12
    )


def test_cross_attention_turns_what_looks_and_not_what_is_looked_at() -> None:
    module = attention(4)
    x, borders = random_tokens(5, 1, 16)[:, 0], borders_of([3, 2])
    memory, seen = random_tokens(6, 1, 16, seed=1)[:, 0], borders_of([2, 4])
    turn = Rotary(4, 100.0)(borders.positions)
    query = rotate((x @ module.query.weight.T).view(5, 4, 4), turn)
    key, value = ((memory @ w).view(6, 4, 4) for w in module.key_value.weight.T.chunk(2, dim=-1))
    mixed = naive_attention(query, key, value, [3, 2], [2, 4], causal=False)
    expected = mixed.flatten(1) @ module.output.weight.T
    found = module(x, borders, turn, causal=False, memory=(memory, seen))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_one_token_at_a_time_gives_what_the_whole_sequence_gives(key_value_heads: int) -> None:
    module, rotary = attention(key_value_heads), Rotary(4, 100.0)
    x = random_tokens(2, 5, 16)  # 2 sequences of 5 tokens
    borders = borders_of([5, 5])
    whole = module(x.flatten(0, 1), borders, rotary(borders.positions), causal=True)
    empty = x.new_empty(2, key_value_heads, 0, 4)
    cache = KeyValueCache(empty, empty, None)
    for t in range(5):
        step = module.step(x[:, t], rotary(torch.tensor([t])), cache, grow=True)
        torch.testing.assert_close(step, whole.view(2, 5, 16)[:, t], rtol=1e-10, atol=1e-12)
        assert cache.keys.shape == cache.values.shape == (2, key_value_heads, t + 1, 4)


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_one_token_sees_the_same_memory_as_the_whole_sequence(key_value_heads: int) -> None:
    module, rotary = attention(key_value_heads), Rotary(4, 100.0)
    x = random_tokens(3, 4, 16)  # 3 sequences of 4 tokens, whose sources have 2, 5 and 1
    borders = borders_of([4, 4, 4])
    memory = random_tokens(8, 1, 16, seed=1)[:, 0], borders_of([2, 5, 1], more=2)
    turn = rotary(borders.positions)
    whole = module(x.flatten(0, 1), borders, turn, causal=False, memory=memory)
    cache = module.remember(memory)
    for t in range(4):
        step = module.step(x[:, t], rotary(torch.tensor([t])), cache, grow=False)
        torch.testing.assert_close(step, whole.view(3, 4, 16)[:, t], rtol=1e-10, atol=1e-12)
    assert cache.keys.shape == (3, key_value_heads, 7, 4)
