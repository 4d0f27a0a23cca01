"""Attention for CPUs: sequences of like length together, as batched matrix products.

For short sequences this is several times as fast as `scaled_dot_product_attention`, whose cost
there is in what surrounds the products. Long ones are left to that kernel.

Shapes: N query tokens, K key tokens, H query heads, G key/value heads, W width of a head; in a
group n sequences, T and S the longest queries and keys.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from everytoken.model.precision import at_least_float32, without_autocast
from everytoken.model.unpad import Borders
from everytoken.model.visibility import Visibility

WASTE = 4096
"""Scores per head that a group may spend on padding: about what one more group would cost."""
BLOCK = 256
"""Queries that are multiplied at once; keys that none of them sees are left out."""
LONG = 1024
"""Keys above which the fused kernel takes over, which doesn't keep all scores for backward."""
HIDDEN = -1e9
"""Added to the score of what may not be seen. Unlike -inf, no NaN where nothing is seen."""


class Block(NamedTuple):
    """Some queries of a group, and the keys that any of them may see."""

    queries: slice
    keys: slice
    bias: Tensor | None
    """float32, broadcasts to (n, H, queries, keys): 0 or HIDDEN; None for no addition."""


class Group(NamedTuple):
    """Sequences of like length."""

    rows: list[int]
    width: int
    """T."""
    key_width: int
    """S."""
    blocks: list[Block]
    is_long: bool
    """True for the fused kernel, which takes one block of all queries and keys."""


class Slots(NamedTuple):
    """Where the heads of tokens stand in the layout of the groups, (n, H, T) each."""

    index: Tensor
    """(P,): for each slot its row of an (N * H, W) tensor, or N * H for padding."""
    inverse: Tensor
    """(N * H,): for each row its slot, or P if it is in no group."""
    has_padding: bool
    """True if a slot has no row."""
    leaves_out: bool
    """True if a row has no slot."""

    def back(self) -> "Slots":
        """The way back."""
        return Slots(self.inverse, self.index, self.leaves_out, self.has_padding)


@torch.compiler.disable
def bucketed(queries: Borders, keys: Borders, visibility: Visibility) -> Callable[..., Tensor]:
    """Attention of one micro-batch, see `backends.attention`."""
    prefixes = queries.prefix_lengths if visibility.causal else None
    groups = _groups(queries.lengths, keys.lengths, visibility, prefixes)

    @cache
    def slots(borders: Borders, heads: int) -> Slots:
        widths = [g.width if borders is queries else g.key_width for g in groups]
        return _slots(borders, [g.rows for g in groups], widths, heads)

    @torch.compiler.disable
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if not groups:
            # Of no tokens, but keys and values must stay in the graph: DDP waits for each gradient.
            return query + 0 * (key.sum() + value.sum())
        heads, key_heads, head_width = query.shape[1], key.shape[1], query.shape[2]
        at, key_at = slots(queries, heads), slots(keys, key_heads)
        q = take(query.flatten(0, 1) * head_width**-0.5, at)  # (P, W)
        k, v = (take(side.flatten(0, 1), key_at) for side in (key, value))
        sizes = [len(g.rows) * heads * g.width for g in groups]
        key_sizes = [len(g.rows) * key_heads * g.key_width for g in groups]
        out = []
        with without_autocast(query):
            for group, q_part, k_part, v_part in zip(
                groups, q.split(sizes), k.split(key_sizes), v.split(key_sizes), strict=True
            ):
                n = len(group.rows)
                q_part = q_part.view(n, heads, group.width, head_width)
                key_shape = (n, key_heads, group.key_width, head_width)
                k_part, v_part = k_part.view(key_shape), v_part.view(key_shape)
                attend_group = _fused if group.is_long else _multiplied
                mixed = attend_group(q_part, k_part, v_part, group.blocks, visibility)
                out.append(mixed.reshape(-1, head_width))
        return take(torch.cat(out), at.back()).view_as(query)

    return attend  # pyright: ignore[reportReturnType]


def _multiplied(
    q: Tensor, k: Tensor, v: Tensor, blocks: list[Block], visibility: Visibility
) -> Tensor:
    """(n, H, T, W) queries, scaled; (n, G, S, W) keys and values → (n, H, T, W)."""
    n, heads, _, head_width = q.shape
    k, v = k.flatten(0, 1), v.flatten(0, 1)
    out = []
    for block in blocks:
        # Queries of the heads that share a key head are rows of one product.
        q_block = q[:, :, block.queries].reshape(len(k), -1, head_width)
        scores = torch.bmm(q_block, k[:, block.keys].mT)
        rows = scores.shape  # (n * G, H / G * queries, keys)
        scores = at_least_float32(scores)
        if block.bias is not None:
            scores = (scores.view(n, heads, -1, rows[-1]) + block.bias).view(rows)
        probabilities = torch.softmax(scores, -1).to(v.dtype)
        out.append(torch.bmm(probabilities, v[:, block.keys]).view(n, heads, -1, head_width))
    return out[0] if len(out) == 1 else torch.cat(out, dim=2)


def _fused(q: Tensor, k: Tensor, v: Tensor, blocks: list[Block], visibility: Visibility) -> Tensor:
    """The same by torch's kernel."""
    (whole,) = blocks
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    bias = None if whole.bias is None else whole.bias.to(q.dtype)
    return F.scaled_dot_product_attention(
        q, k, v, bias, is_causal=bias is None and visibility.causal, scale=1.0
    )


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, slots: Slots) -> Tensor:
        ctx.slots = slots
        return _taken(rows, slots)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return _taken(gradient, ctx.slots.back()), None


def _taken(rows: Tensor, slots: Slots) -> Tensor:
    padded = F.pad(rows, (0, 0, 0, 1)) if slots.has_padding else rows
    return padded.index_select(0, slots.index)


def take(rows: Tensor, slots: Slots) -> Tensor:
    """Rows (R, W) → slots (P, W), zeros in those of padding.

    Each row goes to one slot at most. So backward takes too, which is many times as fast as adding
    up.
    """
    return _Take.apply(rows, slots)  # pyright: ignore[reportReturnType]


def _groups(
    lengths: Tensor, key_lengths: Tensor, visibility: Visibility, prefixes: Tensor | None = None
) -> list[Group]:
    """Longest first, each sequence joins the last group unless that would waste too much."""
    pairs = list(zip(lengths.tolist(), key_lengths.tolist(), strict=True))
    order = sorted((i for i, (q, _) in enumerate(pairs) if q), key=lambda i: -sum(pairs[i]))
    rows: list[list[int]] = []
    width = key_width = used = 0
    for i in order:
        q, k = pairs[i]
        wider, key_wider = max(width, q), max(key_width, k)
        if rows and (len(rows[-1]) + 1) * wider * key_wider - used - q * k <= WASTE:
            rows[-1].append(i)
            width, key_width, used = wider, key_wider, used + q * k
        else:
            rows.append([i])
            width, key_width, used = q, k, q * k
    return [
        _group(part, pairs, visibility, None if prefixes is None else prefixes[part])
        for part in rows
    ]


def _group(
    rows: list[int], pairs: list[tuple[int, int]], visibility: Visibility, prefixes: Tensor | None
) -> Group:
    width = max(pairs[i][0] for i in rows)
    key_lengths = torch.tensor([pairs[i][1] for i in rows])
    key_width = int(key_lengths.max())
    left, right = visibility.reach(width + key_width)
    prefix = 0 if prefixes is None else int(prefixes.max())
    is_long = min(key_width, BLOCK + left + min(max(right, prefix), left)) > LONG
    step = width if is_long else BLOCK
    blocks = []
    for start in range(0, width, step):
        queries = range(start, min(start + step, width))
        seen_to = max(queries.stop + right, min(prefix, queries.stop + left))
        keys = range(max(0, start - left), min(key_width, seen_to))
        bias = _bias(queries, keys, key_lengths, visibility, is_long, prefixes)
        blocks.append(Block(slice(start, queries.stop), slice(keys.start, keys.stop), bias))
    return Group(rows, width, key_width, blocks, is_long)


def _bias(
    queries: range,
    keys: range,
    key_lengths: Tensor,
    visibility: Visibility,
    is_long: bool,
    prefixes: Tensor | None,
) -> Tensor | None:
    # The fused kernel knows itself what causal means, but of no prefix.
    limited = visibility.window is not None or (visibility.causal and not is_long)
    limited = limited or prefixes is not None
    seen = visibility.visible(queries, keys, prefix_lengths=prefixes) if limited else None
    if not visibility.causal:  # padding stands on the right, where a causal token doesn't look
        real = (torch.arange(keys.start, keys.stop) < key_lengths[:, None])[:, None, None]
        seen = real if seen is None else seen & real
    if seen is None or (seen.all() and prefixes is None):
        return None
    return torch.where(seen, 0.0, HIDDEN)


def _slots(borders: Borders, rows: list[list[int]], widths: list[int], heads: int) -> Slots:
    begin, end = borders.cu_seqlens[:-1].long(), borders.cu_seqlens[1:].long()
    count = int(borders.cu_seqlens[-1]) * heads
    parts = []
    for group, width in zip(rows, widths, strict=True):
        token = begin[group, None] + torch.arange(width)  # (n, T)
        row = token[:, None] * heads + torch.arange(heads)[:, None]  # (n, H, T)
        is_real = (token < end[group, None])[:, None]
        parts.append(torch.where(is_real, row, count).flatten())
    index = torch.cat(parts)
    inverse = torch.full((count + 1,), len(index))
    inverse[index] = torch.arange(len(index))
    inverse = inverse[:-1]
    return Slots(index, inverse, bool((index == count).any()), bool((inverse == len(index)).any()))
