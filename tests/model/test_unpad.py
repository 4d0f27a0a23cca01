"""Stripping padding and putting it back: nothing is lost, moved or invented on the way."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from everytoken.batch import PaddingSide, real_positions
from everytoken.model.unpad import Borders, repad, strip, unpad
from support.helpers import make_batch

SIDES: list[PaddingSide] = ["left", "right"]

few = settings(max_examples=50, deadline=None)
lengths_of_rows = st.lists(st.integers(0, 7), min_size=1, max_size=5)


def pad(rows: list[list[int]], width: int, side: PaddingSide) -> Tensor:
    """Rows of ids filled up with -1."""
    return torch.tensor(
        [
            [-1] * (width - len(row)) + row if side == "left" else row + [-1] * (width - len(row))
            for row in rows
        ],
        dtype=torch.int64,
    ).view(len(rows), width)


def strip_rows(
    rows: list[list[int]], side: PaddingSide, more: int = 0
) -> tuple[Tensor, Borders, int]:
    lengths = [len(row) for row in rows]
    width = max(lengths) + more
    tokens, borders = unpad(pad(rows, width, side), torch.tensor(lengths), sum(lengths), side)
    return tokens, borders, width


def numbered(lengths: list[int]) -> list[list[int]]:
    """Rows of the given lengths that together hold 100, 101, 102, … in order."""
    ids = iter(range(100, 100 + sum(lengths)))
    return [[next(ids) for _ in range(length)] for length in lengths]


# To check by eye


@pytest.mark.parametrize(
    ("ids", "side"),
    [
        ([[5, 6, 7, 0, 0], [8, 9, 0, 0, 0]], "right"),
        ([[0, 0, 5, 6, 7], [0, 0, 0, 8, 9]], "left"),
    ],
)
def test_real_tokens_lie_sequence_by_sequence(ids: list[list[int]], side: PaddingSide) -> None:
    tokens, borders = unpad(torch.tensor(ids), torch.tensor([3, 2]), 5, side)
    assert tokens.tolist() == [5, 6, 7, 8, 9]
    assert borders.positions.tolist() == [0, 1, 2, 0, 1]
    assert borders.cu_seqlens.tolist() == [0, 3, 5]
    assert borders.cu_seqlens.dtype == torch.int32
    assert borders.lengths.tolist() == [3, 2]
    assert borders.max_seqlen == 5
    assert repad(tokens, borders).tolist() == [[5, 6, 7, 0, 0], [8, 9, 0, 0, 0]]


def test_a_real_token_may_have_any_id() -> None:
    tokens, _ = unpad(torch.tensor([[0, 0, 0, 0]]), torch.tensor([3]), 3, "right")
    assert tokens.tolist() == [0, 0, 0]


def test_sequences_without_tokens_take_no_room() -> None:
    tokens, borders, _ = strip_rows([[], [4], [], [5, 6]], "left")
    assert tokens.tolist() == [4, 5, 6]
    assert borders.cu_seqlens.tolist() == [0, 0, 1, 1, 3]
    assert borders.positions.tolist() == [0, 0, 1]
    assert repad(tokens, borders).tolist() == [[0, 0], [4, 0], [0, 0], [5, 6]]


# Any rows


@few
@given(lengths=lengths_of_rows, side=st.sampled_from(SIDES), more=st.integers(0, 3))
def test_unpad_keeps_the_real_tokens_in_order(
    lengths: list[int], side: PaddingSide, more: int
) -> None:
    rows = numbered(lengths)
    tokens, borders, _ = strip_rows(rows, side, more)
    assert tokens.tolist() == [token for row in rows for token in row]
    assert borders.positions.tolist() == [t for length in lengths for t in range(length)]
    starts = borders.cu_seqlens.tolist()
    assert [tokens[a:b].tolist() for a, b in pairwise(starts)] == rows


@few
@given(lengths=lengths_of_rows, side=st.sampled_from(SIDES), more=st.integers(0, 3))
def test_repad_pads_right_with_zeros_and_strip_undoes_it(
    lengths: list[int], side: PaddingSide, more: int
) -> None:
    rows = numbered(lengths)
    tokens, borders, width = strip_rows(rows, side, more)
    padded = repad(tokens, borders)
    assert padded.tolist() == [row + [0] * (width - len(row)) for row in rows]
    assert torch.equal(strip(padded, borders), tokens)
    is_real = real_positions(torch.tensor(lengths), width, "right")
    assert torch.equal(repad(strip(padded, borders), borders) != 0, is_real)


@few
@given(lengths=lengths_of_rows, more=st.integers(0, 3))
def test_both_sides_give_the_same(lengths: list[int], more: int) -> None:
    rows = numbered(lengths)
    left, left_borders, _ = strip_rows(rows, "left", more)
    right, right_borders, _ = strip_rows(rows, "right", more)
    assert torch.equal(left, right)
    for name, value in vars(left_borders).items():
        other = getattr(right_borders, name)
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other


def test_channels_come_along() -> None:
    batch = make_batch([3, 1, 2], padding_side="left")
    _, borders = unpad(batch.input_ids, batch.lengths, batch.input_count, batch.padding_side)
    tokens = torch.randn(6, 2, 5)
    padded = repad(tokens, borders)
    assert padded.shape == (3, 3, 2, 5)
    assert torch.equal(padded[0], tokens[:3])
    assert torch.equal(padded[1, :1], tokens[3:4])
    assert torch.equal(padded[2, :2], tokens[4:])
    assert not padded[1, 1:].any()
    assert torch.equal(strip(padded, borders), tokens)


# Gradients


def test_the_gradient_of_repad_reaches_every_real_token_once() -> None:
    _, borders, _ = strip_rows(numbered([2, 3]), "right", more=1)
    tokens = torch.randn(5, 4, requires_grad=True)
    weight = torch.randn(2, 4, 4)
    (repad(tokens, borders) * weight).sum().backward()
    assert tokens.grad is not None
    assert torch.equal(tokens.grad, torch.cat([weight[0, :2], weight[1, :3]]))


def test_the_gradient_of_strip_is_zero_in_the_padding() -> None:
    _, borders, _ = strip_rows(numbered([2, 3]), "left")
    padded = torch.randn(2, 3, 4, requires_grad=True)
    strip(padded, borders).sum().backward()
    assert padded.grad is not None
    assert padded.grad[..., 0].tolist() == [[1, 1, 0], [1, 1, 1]]
