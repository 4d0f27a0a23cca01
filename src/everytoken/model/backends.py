"""Ways to attend among real tokens. All give the same; device and precision decide which is fast.

- `varlen`: one kernel that knows where sequences begin and end. CUDA, half precision.
- `bucketed`: sequences of like length together, as batched matrix products. For CPUs.
- `padded`: all sequences padded to the longest, and masked. For any device and precision.

Shapes: N query tokens, K key tokens, B sequences, T and S their padded widths, H query heads,
G key/value heads (H is a multiple of G), W width of a head.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn

from everytoken.batch import real_positions
from everytoken.errors import UserError
from everytoken.model.cpu.bucketed import bucketed
from everytoken.model.unpad import Borders, repad, strip
from everytoken.model.visibility import Visibility

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries (N, H, W), keys (K, G, W), values (K, G, W) → (N, H, W): scaled dot-product attention
(Vaswani et al. 2017, eq. 1) inside each sequence."""

Backend = Literal["auto", "varlen", "bucketed", "padded"]


def select_backend(backend: Backend, device: torch.device, dtype: torch.dtype) -> Backend:
    """The way to attend on a device to queries of a dtype: what was asked for, or the fastest.

    Raises:
        UserError: a way that is not made for them.
    """
    half = dtype in (torch.float16, torch.bfloat16)
    if backend == "auto":
        if device.type == "cpu":
            return "bucketed"
        return "varlen" if device.type == "cuda" and half else "padded"
    if backend == "varlen" and (device.type == "cpu" or not half):
        raise UserError(
            "model.attention=varlen needs a CUDA GPU and precision=bf16 or fp16: "
            "set them, or model.attention=auto"
        )
    if backend == "bucketed" and device.type != "cpu":
        raise UserError("model.attention=bucketed is for CPUs: set model.attention=auto")
    return backend


def attention(
    backend: Backend, queries: Borders, keys: Borders, visibility: Visibility, dtype: torch.dtype
) -> Attend:
    """Attention of one micro-batch, which all layers of a stack share.

    Args:
        backend: the way to attend, or "auto".
        queries: borders of the N tokens that look.
        keys: borders of the K tokens that are looked at, with the same number of sequences.
        visibility: which of them a token may see.
        dtype: of queries, keys and values.
    """
    ways = {"varlen": varlen, "bucketed": bucketed, "padded": padded}
    return ways[select_backend(backend, queries.lengths.device, dtype)](queries, keys, visibility)


def varlen(queries: Borders, keys: Borders, visibility: Visibility) -> Attend:
    """By torch's kernel for sequences of different lengths (Flash Attention 2)."""
    window = -1 if visibility.window is None else visibility.window

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        shared = _shared(query, key, value, dim=1)

        def inside(begins: Tensor, key_begins: Tensor, right: int) -> Tensor:
            longest, window_size = (queries.max_seqlen, keys.max_seqlen), (window, right)
            out = varlen_attn(query, *shared, begins, key_begins, *longest, window_size=window_size)
            assert isinstance(out, Tensor)
            return out

        ahead = 0 if visibility.causal else window
        whole = inside(queries.cu_seqlens, keys.cu_seqlens, ahead)
        lengths = _prefixes(queries, visibility)
        if lengths is None:
            return whole
        # Once more with each prefix, and each rest, as a sequence of its own.
        begins = queries.cu_seqlens[:-1]
        parts = torch.stack((begins, begins + lengths.int()), 1).flatten()
        parts = torch.cat((parts, queries.cu_seqlens[-1:]))
        ends = lengths.repeat_interleave(queries.lengths, output_size=len(query))
        in_prefix = (queries.positions < ends)[:, None, None]
        return torch.where(in_prefix, inside(parts, parts, window), whole)

    return attend


def _prefixes(queries: Borders, visibility: Visibility) -> Tensor | None:
    """(B,) lengths of prefixes; None if there are none, or if all is seen anyway."""
    return queries.prefix_lengths if visibility.causal else None


def padded(queries: Borders, keys: Borders, visibility: Visibility) -> Attend:
    """By `scaled_dot_product_attention` over all sequences, padded to the longest."""
    width, key_width = queries.max_seqlen, keys.max_seqlen
    mask = None
    if not visibility.causal:  # padding stands on the right, where a causal token doesn't look
        mask = real_positions(keys.lengths, key_width, "right")[:, None, None]  # (B, 1, 1, S)
    prefixes = _prefixes(queries, visibility)
    if visibility.window is not None or prefixes is not None:
        near = visibility.visible(range(width), range(key_width), keys.lengths.device, prefixes)
        mask = near if mask is None else mask & near  # (B, 1, T, S) or (T, S)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q = repad(query, queries).transpose(1, 2)  # (B, H, T, W)
        k, v = (repad(side, keys).transpose(1, 2) for side in (key, value))  # (B, G, S, W)
        k, v = _shared(q, k, v, dim=1)
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)
        return strip(out.transpose(1, 2), queries)

    return attend


def _shared(query: Tensor, key: Tensor, value: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Keys and values repeated for the query heads that share them."""
    group = query.shape[dim] // key.shape[dim]
    return key.repeat_interleave(group, dim), value.repeat_interleave(group, dim)
