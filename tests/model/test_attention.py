"""The attention layer against a naive loop, rotary positions, and the cache."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from everytoken.model.attention import Attention, KeyValueCache, Rotary, rotate
from everytoken.model.backends import Attend, attention
from everytoken.model.unpad import Borders
from everytoken.model.visibility import Visibility
from support.helpers import borders_of, naive_attention, random_tokens

few = settings(max_examples=30, deadline=None)


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


def make_layer(key_value_heads: int) -> Attention:
    torch.manual_seed(0)
    return Attention(16, 4, key_value_heads).double()


def causal(borders: Borders, window: int | None = None) -> Attend:
    return attention("auto", borders, borders, Visibility(True, window), torch.float64)


def across(borders: Borders, memory: Borders) -> Attend:
    return attention("auto", borders, memory, Visibility(False, None), torch.float64)


def test_the_module_projects_attends_and_projects_back() -> None:
    module, lengths = make_layer(2), [3, 2]
    x, borders = random_tokens(5, 1, 16)[:, 0], borders_of([3, 2])
    turn = Rotary(4, 100.0)(borders.positions)
    key, value = (x @ module.key_value.weight.T).chunk(2, dim=-1)  # heads side by side
    query = rotate((x @ module.query.weight.T).view(5, 4, 4), turn)
    key, value = rotate(key.reshape(5, 2, 4), turn), value.reshape(5, 2, 4)
    mixed = naive_attention(query, key, value, lengths, lengths, Visibility(True, None))
    expected = mixed.flatten(1) @ module.output.weight.T
    torch.testing.assert_close(module(x, turn, causal(borders)), expected, rtol=1e-10, atol=1e-12)


def test_cross_attention_turns_what_looks_and_not_what_is_looked_at() -> None:
    module = make_layer(4)
    x, borders = random_tokens(5, 1, 16)[:, 0], borders_of([3, 2])
    memory, seen = random_tokens(6, 1, 16, seed=1)[:, 0], borders_of([2, 4])
    turn = Rotary(4, 100.0)(borders.positions)
    query = rotate((x @ module.query.weight.T).view(5, 4, 4), turn)
    key, value = ((memory @ w).view(6, 4, 4) for w in module.key_value.weight.T.chunk(2, dim=-1))
    mixed = naive_attention(query, key, value, [3, 2], [2, 4], Visibility(False, None))
    expected = mixed.flatten(1) @ module.output.weight.T
    found = module(x, turn, across(borders, seen), memory)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("window", [None, 1, 3, 9])
@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_one_token_at_a_time_gives_what_the_whole_sequence_gives(
    key_value_heads: int, window: int | None
) -> None:
    module, rotary = make_layer(key_value_heads), Rotary(4, 100.0)
    x = random_tokens(2, 5, 16)  # 2 sequences of 5 tokens
    borders = borders_of([5, 5])
    whole = module(x.flatten(0, 1), rotary(borders.positions), causal(borders, window))
    empty = x.new_empty(2, key_value_heads, 0, 4)
    cache = KeyValueCache(empty, empty, None, window)
    for t in range(5):
        step = module.step(x[:, t], rotary(torch.tensor([t])), cache, grow=True)
        torch.testing.assert_close(step, whole.view(2, 5, 16)[:, t], rtol=1e-10, atol=1e-12)
        kept = t + 1 if window is None else min(t, window) + 1
        assert cache.keys.shape == cache.values.shape == (2, key_value_heads, kept, 4)


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_one_token_sees_the_same_memory_as_the_whole_sequence(key_value_heads: int) -> None:
    module, rotary = make_layer(key_value_heads), Rotary(4, 100.0)
    x = random_tokens(3, 4, 16)  # 3 sequences of 4 tokens, whose sources have 2, 5 and 1
    borders = borders_of([4, 4, 4])
    memory = random_tokens(8, 1, 16, seed=1)[:, 0], borders_of([2, 5, 1], more=2)
    turn = rotary(borders.positions)
    whole = module(x.flatten(0, 1), turn, across(borders, memory[1]), memory[0])
    cache = KeyValueCache.of(*module.project_key_value(memory[0], None), memory[1])
    together = module.step(x.flatten(0, 1), turn, cache, grow=False)  # 4 tokens of each sequence
    torch.testing.assert_close(together, whole, rtol=1e-10, atol=1e-12)
    for t in range(4):
        step = module.step(x[:, t], rotary(torch.tensor([t])), cache, grow=False)
        torch.testing.assert_close(step, whole.view(3, 4, 16)[:, t], rtol=1e-10, atol=1e-12)
    assert cache.keys.shape == (3, key_value_heads, 7, 4)
