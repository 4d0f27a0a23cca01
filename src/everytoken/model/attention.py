"""The attention layer: projections, rotary positions, and the cache of generation.

Which tokens see which, and how that is computed, is in `backends.py`.

Shapes: N query tokens, K key tokens, B sequences, H query heads, G key/value heads (H is a multiple
of G), D model width, W = D / H head width.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everytoken.batch import real_positions
from everytoken.model.backends import Attend
from everytoken.model.unpad import Borders, repad


@dataclass(eq=False)
class KeyValueCache:
    """Keys and values of S sequences that their newest tokens look at, for generation."""

    keys: Tensor
    """(S, G, C, W): in self-attention C grows with each token, up to what the window lets see."""
    values: Tensor
    """(S, G, C, W)."""
    may_attend: Tensor | None
    """(S, 1, 1, C) bool: False on padding, which stands on the left; None if there is none."""
    window: int | None
    """How many positions back a token may look."""

    @classmethod
    def of(cls, key: Tensor, value: Tensor, borders: Borders, window: int | None = None) -> Self:
        """Of the tokens of whole sequences, key and value (K, G, W)."""
        keys, values = (repad(part, borders, "left").transpose(1, 2) for part in (key, value))
        rows, _, width, _ = keys.shape
        may_attend = None
        if rows * width > len(key):
            may_attend = real_positions(borders.lengths, width, "left")[:, None, None]
        return cls(keys, values, may_attend, window)

    def append(self, key: Tensor, value: Tensor) -> None:
        """Add one token (S, G, W) to each sequence, and forget what it doesn't see."""
        first = 0 if self.window is None else -(self.window + 1)
        self.keys = torch.cat((self.keys, key[:, :, None]), dim=2)[:, :, first:]
        self.values = torch.cat((self.values, value[:, :, None]), dim=2)[:, :, first:]
        if self.may_attend is not None:
            self.may_attend = F.pad(self.may_attend, (0, 1), value=True)[..., first:]

    def select(self, rows: Tensor) -> None:
        """Keep the sequences that `rows` (S',) names, in its order; one may come several times."""
        self.keys, self.values = self.keys[rows], self.values[rows]
        if self.may_attend is not None:
            self.may_attend = self.may_attend[rows]


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

    def step(
        self, x: Tensor, turn: tuple[Tensor, Tensor], cache: KeyValueCache, *, grow: bool
    ) -> Tensor:
        """The newest tokens (R, D) → (R, D), R / S of them for each sequence of the cache.

        `grow` adds them to the cache first, R = S.
        """
        if grow:
            cache.append(*self.project_key_value(x, turn))
        query = self.project_query(x, turn)  # (R, H, W)
        sequences, groups = cache.keys.shape[:2]
        # What shares keys stands side by side: the tokens of a sequence, the heads of a group.
        query = query.unflatten(0, (sequences, -1)).unflatten(2, (groups, -1)).transpose(1, 2)
        side_by_side = query.flatten(2, 3)  # (S, G, R / S * H / G, W)
        out = F.scaled_dot_product_attention(
            side_by_side, cache.keys, cache.values, attn_mask=cache.may_attend
        )
        return self.output(out.unflatten(2, query.shape[2:4]).transpose(1, 2).reshape(len(x), -1))
