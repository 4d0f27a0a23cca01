"""Attention for CPUs: sequences of like length together, as batched matrix products.

For short sequences this is several times as fast as `scaled_dot_product_attention`, whose cost
there is in what surrounds the products. Long ones are left to that kernel, in small groups.

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

from everytoken.sight import Sight
from everytoken.unpad import Borders

WASTE = 4096
"""Score entries per head that a group may spend on padding: about what one more group costs."""
BLOCK = 256
"""Queries that are multiplied at once: keys that none of them sees are left out."""
LONG = 1024
"""Keys from which a group goes to the fused kernel, which doesn't keep all scores for backward."""
HIDDEN = -1e9
"""Added to the score of what may not be seen; unlike -inf it is no NaN where nothing is seen."""


class Block(NamedTuple):
    """Some queries of a group and the keys that any of them may see."""

    queries: slice
    keys: slice
    bias: Tensor | None
    """(n or 1, 1, queries, keys) float32: 0, or HIDDEN."""


class Group(NamedTuple):
    """Sequences of like length."""

    rows: list[int]
    blocks: list[Block]
    width: int
    """T."""
    key_width: int
    """S."""


class Slots(NamedTuple):
    """Where the heads of tokens stand in the layout of the groups, (n, H, T) each."""

    index: Tensor
    """(P,): for each slot its row of an (N * H, W) tensor, or N * H for padding."""
    inverse: Tensor
    """(N * H,): for each row its slot."""


@torch.compiler.disable
def grouped(queries: Borders, keys: Borders, sight: Sight) -> Callable[..., Tensor]:
    """Attention of one micro-batch, see `attend.attention`."""
    groups = _groups(queries.lengths, keys.lengths, sight)

    @cache
    def slots(borders: Borders, heads: int) -> Slots:
        wide = borders is queries
        widths = [g.width if wide else g.key_width for g in groups]
        return _slots(borders, [g.rows for g in groups], widths, heads)

    @torch.compiler.disable
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads, key_heads = query.shape[1], key.shape[1]
        at, key_at = slots(queries, heads), slots(keys, key_heads)
        q = take(query.flatten(0, 1) * query.shape[2] ** -0.5, *at)  # (P, W)
        k, v = (take(side.flatten(0, 1), *key_at) for side in (key, value))
        sizes = [len(g.rows) * heads * g.width for g in groups]
        key_sizes = [len(g.rows) * key_heads * g.key_width for g in groups]
        parts = zip(groups, q.split(sizes), k.split(key_sizes), v.split(key_sizes), strict=True)
        out = []
        with torch.autocast(query.device.type, enabled=False):  # these products stay as they are
            for group, q_group, k_group, v_group in parts:
                n = len(group.rows)
                shape = (n, key_heads, -1, query.shape[2])
                out.append(
                    _attend_group(
                        q_group.view(n, heads, group.width, -1),
                        k_group.view(shape),
                        v_group.view(shape),
                        group,
                    ).flatten(0, 2)
                )
        return take(torch.cat(out), at.inverse, at.index).view_as(query)

    return attend


def _attend_group(q: Tensor, k: Tensor, v: Tensor, group: Group) -> Tensor:
    """(n, H, T, W) queries, scaled; (n, G, S, W) keys and values → (n, H, T, W)."""
    n, heads, _, head_width = q.shape
    key_heads = k.shape[1]
    out = []
    for block in group.blocks:
        # Queries of the heads that share a key head are rows of one product.
        q_block = q[:, :, block.queries].reshape(n * key_heads, -1, head_width)
        k_block = k.flatten(0, 1)[:, block.keys]
        scores = torch.bmm(q_block, k_block.mT).float()
        if block.bias is not None:
            scores = scores.view(n, heads, -1, scores.shape[-1]) + block.bias
        chances = torch.softmax(scores, -1).to(v.dtype).view(n * key_heads, q_block.shape[1], -1)
        mixed = torch.bmm(chances, v.flatten(0, 1)[:, block.keys])
        out.append(mixed.view(n, heads, -1, head_width))
    return out[0] if len(out) == 1 else torch.cat(out, dim=2)


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(index, inverse)
        return F.pad(rows, (0, 0, 0, 1)).index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        index, inverse = ctx.saved_tensors
        return F.pad(gradient, (0, 0, 0, 1)).index_select(0, inverse), None, None


def take(rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """rows[index], where each row is taken at most once.

    So backward takes too, which is many times as fast as adding up.

    Args:
        rows: (R, W)
        index: (P,) rows to take; R for a row of zeros.
        inverse: (R,) where each row went; P if nowhere.

    Returns:
        (P, W)
    """
    return _Take.apply(rows, index, inverse)


def _groups(lengths: Tensor, key_lengths: Tensor, sight: Sight) -> list[Group]:
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
    return [_group(part, pairs, sight) for part in rows]


def _group(rows: list[int], pairs: list[tuple[int, int]], sight: Sight) -> Group:
    width = max(pairs[i][0] for i in rows)
    key_lengths = torch.tensor([pairs[i][1] for i in rows])
    key_width = int(key_lengths.max())
    left, right = sight.reach(width + key_width)
    blocks = []
    for start in range(0, width, BLOCK):
        queries = range(start, min(start + BLOCK, width))
        keys = range(max(0, start - left), min(key_width, queries.stop + right))
        seen = sight.visible(queries, keys, key_lengths.device)[None, None]
        if not sight.causal:  # padding stands on the right, where a causal token doesn't look
            real = torch.tensor(keys) < key_lengths[:, None]
            seen = seen & real[:, None, None]
        bias = None if seen.all() else torch.where(seen, 0.0, HIDDEN)
        blocks.append(
            Block(slice(queries.start, queries.stop), slice(keys.start, keys.stop), bias)
        )
    return Group(rows, blocks, width, key_width)


def _slots(borders: Borders, rows: list[list[int]], widths: list[int], heads: int) -> Slots:
    begin, end = borders.cu_seqlens[:-1].long(), borders.cu_seqlens[1:].long()
    total = int(borders.cu_seqlens[-1]) * heads
    head = torch.arange(heads)[:, None]
    parts = []
    for group, width in zip(rows, widths, strict=True):
        token = begin[group, None] + torch.arange(width)  # (n, T)
        row = token[:, None] * heads + head  # (n, H, T)
        parts.append(torch.where((token < end[group, None])[:, None], row, total).flatten())
    index = torch.cat(parts)
    inverse = torch.full((total + 1,), len(index))
    inverse[index] = torch.arange(len(index))
    return Slots(index, inverse[:-1])
