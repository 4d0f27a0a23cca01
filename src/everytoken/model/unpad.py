"""Padded (B, T) ↔ real tokens (N,). The only place where padding is removed.

The model works on real tokens lying one after the other, sequence by sequence. `Borders` says where
each sequence begins and ends among them; attention alone needs to know.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from everytoken.batch import PaddingSide, real_positions, true_indices


@dataclass(frozen=True, eq=False)
class Borders:
    """Where B sequences lie among N real tokens."""

    lengths: Tensor
    """(B,) int64: tokens of each sequence."""
    cu_seqlens: Tensor
    """(B + 1,) int32: sequence b is tokens cu_seqlens[b] to cu_seqlens[b + 1] - 1."""
    positions: Tensor
    """(N,) int64: place of each token in its own sequence, from 0."""
    slots: Tensor
    """(N,) int64: place of each token in a right-padded (B * max_seqlen) layout."""
    max_seqlen: int
    """At least the longest length."""
    prefix_lengths: Tensor | None = None
    """(B,) int64: first tokens of each sequence that see each other both ways, though others see
    what came before only; None for none."""


def unpad(
    ids: Tensor, lengths: Tensor, count: int, padding_side: PaddingSide
) -> tuple[Tensor, Borders]:
    """Strip the padding.

    Args:
        ids: (B, T), padded on `padding_side`.
        lengths: (B,) real tokens of each row.
        count: N, their sum, as a Python integer: the device need not be asked.
        padding_side: where the padding stands.

    Returns:
        (N,) the real tokens, and their borders.
    """
    width = ids.shape[1]
    index = true_indices(real_positions(lengths, width, padding_side).flatten(), count)
    row, column = index // width, index % width
    positions = column if padding_side == "right" else column - (width - lengths)[row]
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    borders = Borders(lengths, cu_seqlens, positions, row * width + positions, width)
    return ids.flatten()[index], borders


def repad(tokens: Tensor, borders: Borders, padding_side: PaddingSide = "right") -> Tensor:
    """(N, …) real tokens → (B, max_seqlen, …), padded with zeros."""
    rows = len(borders.lengths)
    flat = tokens.new_zeros(rows * borders.max_seqlen, *tokens.shape[1:])
    slots = borders.slots
    if padding_side == "left":
        padding = borders.max_seqlen - borders.lengths
        slots = slots + padding.repeat_interleave(borders.lengths, output_size=len(tokens))
    return flat.index_copy(0, slots, tokens).unflatten(0, (rows, borders.max_seqlen))


def strip(padded: Tensor, borders: Borders) -> Tensor:
    """(B, max_seqlen, …), padded right → (N, …) real tokens: the inverse of `repad`."""
    return padded.flatten(0, 1)[borders.slots]
