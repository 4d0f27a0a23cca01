"""A layer of the Transformer: attention, to another sequence too if there is one, feed-forward.

Shapes: N real tokens, K real source tokens, R newest tokens of generation, D width.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from everytoken.model.attention import Attention, KeyValueCache
from everytoken.model.backends import Attend
from everytoken.model.layers import Dropout, RMSNorm, swiglu
from everytoken.model.sizes import BlockSizes

Turn = tuple[Tensor, Tensor]
"""What `Rotary` gives for the positions of tokens."""


class Source(NamedTuple):
    """What the decoder attends to in another sequence."""

    memory: Tensor
    """(K, D) the encoder's output."""
    attend: Attend
    """Attention from the decoder's tokens to the encoder's."""


@dataclass(eq=False)
class BlockCache:
    """What a block remembers while text is generated."""

    own: KeyValueCache
    cross: KeyValueCache | None


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer 2020, eq. 6), without biases: (N, D) → (N, D)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) → (N, D)."""
        return self.down(swiglu(self.gate_up(x)))


class Block(nn.Module):
    """Pre-norm layer: self-attention, cross-attention if there is a source, feed-forward.

    Args:
        sizes: see `BlockSizes`.
        cross: True if the block also attends to encoder output.
    """

    def __init__(self, sizes: BlockSizes, *, cross: bool) -> None:
        super().__init__()
        width = sizes.width
        self.attention_norm = RMSNorm(width, sizes.norm_eps)
        self.attention = Attention(width, sizes.heads, sizes.key_value_heads)
        self.cross_norm = RMSNorm(width, sizes.norm_eps) if cross else None
        self.cross = Attention(width, sizes.heads, sizes.key_value_heads) if cross else None
        self.ffn_norm = RMSNorm(width, sizes.norm_eps)
        self.ffn = SwiGLU(width, sizes.ffn_width)
        self.dropout = Dropout(sizes.dropout)

    def forward(self, x: Tensor, turn: Turn, attend: Attend, source: Source | None) -> Tensor:
        """(N, D) → (N, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), turn, attend))
        if self.cross is not None and self.cross_norm is not None and source is not None:
            x = x + self.dropout(self.cross(self.cross_norm(x), turn, source.attend, source.memory))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))

    def step(self, x: Tensor, turn: Turn, cache: BlockCache) -> Tensor:
        """The newest tokens (R, D) → (R, D), as `forward` gives it without dropout."""
        x = x + self.attention.step(self.attention_norm(x), turn, cache.own, grow=True)
        if self.cross is not None and self.cross_norm is not None and cache.cross is not None:
            x = x + self.cross.step(self.cross_norm(x), turn, cache.cross, grow=False)
        return x + self.ffn(self.ffn_norm(x))
