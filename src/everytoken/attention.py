"""The attention layer: projections, rotary positions, and the cache of generation.

Which tokens see which, and how that is computed, is in `attend.py`.

Shapes: N query tokens, K key tokens, B sequences, H query heads, G key/value heads (H is a multiple
of G), D model width, W = D / H head width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everytoken.attend import Attend
from everytoken.batch import real_positions
from everytoken.unpad import Borders, repad


@dataclass(eq=False)
class KeyValueCache:
    """Keys and values that the newest token of each of B sequences looks at, for generation."""

    keys: Tensor
    """(B, G, C, W): in self-attention C grows with each token, up to what the window lets see."""
    values: Tensor
    """(B, G, C, W)."""
    may_attend: Tensor | None
    """(B, 1, 1, C) bool; None if every token may look at all of them."""
    window: int | None = None
    """How many positions back a token may look."""

    def append(self, key: Tensor, value: Tensor) -> None:
        """Add one token (B, G, W) to each sequence, and forget what it doesn't see."""
        first = 0 if self.window is None else -(self.window + 1)
        self.keys = torch.cat((self.keys, key[:, :, None]), dim=2)[:, :, first:]
        self.values = torch.cat((self.values, value[:, :, None]), dim=2)[:, :, first:]


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021): turns each pair of channels by position x rate.

    Channels i and i + W/2 form a pair, as in Llama's published weights.

    Args:
        head_width: W, even.
        base: ratio between the fastest and (nearly) the slowest rate.
    """

    def __init__(self, head_width: int, base: float) -> None:
        super().__init__()
        self.head_width = head_width
        self.base = base

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Factors (N, 1, W) for `rotate` at integer positions (N,), in float32."""
        # Made here and not kept: a buffer would be rounded if the module is cast to half precision.
        channels = torch.arange(0, self.head_width, 2, dtype=torch.float32, device=positions.device)
        angles = positions[:, None, None] * self.base ** (-channels / self.head_width)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn x (N, H, W) by the angles of `Rotary`; same shape and dtype."""
    cos, sin = (part.to(x.dtype) for part in turn)
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


class Attention(nn.Module):
    """Multi-head attention with grouped key/value heads (Ainslie et al. 2023), without biases.

    Args:
        width: D.
        heads: H, query heads.
        key_value_heads: G, heads that groups of query heads share; H for plain attention.
    """

    def __init__(self, width: int, heads: int, key_value_heads: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * key_value_heads * self.head_width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def project_query(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """(N, D) → queries (N, H, W), turned to their positions."""
        return rotate(self.query(x).unflatten(-1, (-1, self.head_width)), turn)

    def project_key_value(
        self, x: Tensor, turn: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """(K, D) → keys and values, each (K, G, W)."""
        key, value = self.key_value(x).unflatten(-1, (2, -1, self.head_width)).unbind(-3)
        return (key if turn is None else rotate(key, turn)), value

    def forward(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor],
        attend: Attend,
        memory: Tensor | None = None,
    ) -> Tensor:
        """(N, D) → (N, D): self-attention, or cross-attention to `memory` (K, D) if given.

        In cross-attention only the queries are turned: what an output looks for may depend on its
        place. (Offsets between output and source mean little; turning both slowed learning.)
        """
        query = self.project_query(x, turn)
        if memory is None:
            key, value = self.project_key_value(x, turn)
        else:
            key, value = self.project_key_value(memory, None)
        return self.output(attend(query, key, value).flatten(-2))

    def remember(self, memory: tuple[Tensor, Borders]) -> KeyValueCache:
        """The cache of cross-attention: keys and values of an encoder's output (K, D)."""
        tokens, borders = memory
        key, value = self.project_key_value(tokens, None)
        may_attend = real_positions(borders.lengths, borders.max_seqlen, "right")[:, None, None, :]
        keys, values = (repad(part, borders).transpose(1, 2) for part in (key, value))
        return KeyValueCache(keys, values, may_attend)

    def step(
        self, x: Tensor, turn: tuple[Tensor, Tensor], cache: KeyValueCache, *, grow: bool
    ) -> Tensor:
        """One new token (B, D) per sequence → (B, D); `grow` adds it to the cache first."""
        if grow:
            cache.append(*self.project_key_value(x, turn))
        query = self.project_query(x, turn)  # (B, H, W)
        group = query.shape[1] // cache.keys.shape[1]
        out = F.scaled_dot_product_attention(
            query[:, :, None],
            cache.keys.repeat_interleave(group, dim=1),
            cache.values.repeat_interleave(group, dim=1),
            attn_mask=cache.may_attend,
        )
        return self.output(out.flatten(1))
