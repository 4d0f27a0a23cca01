"""Sizes of a Transformer, checked before anything heavy is imported."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BlockSizes:
    """Sizes that every block of a model shares.

    Raises:
        ValueError: sizes out of range or that don't divide, with the setting to change.
    """

    width: int
    """D: channels of a hidden state, a multiple of 2 x heads."""
    heads: int
    """H: query heads."""
    key_value_heads: int
    """G: key/value heads, a divisor of H."""
    ffn_width: int
    """Hidden width of the feed-forward layer."""
    dropout: float
    """Probability of dropping a channel of each sublayer's output in training."""
    norm_eps: float
    """Added to the mean square in each RMSNorm."""

    def __post_init__(self) -> None:
        for name in ("width", "heads", "key_value_heads", "ffn_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout must be at least 0 and below 1, got {self.dropout}")
        if self.norm_eps <= 0:
            raise ValueError(f"model.norm_eps must be above 0, got {self.norm_eps}")
        if self.width % (2 * self.heads):
            raise ValueError(
                f"model.width={self.width} must be a multiple of 2 x model.heads={self.heads} "
                "(rotary positions turn channels in pairs): change one of them"
            )
        if self.heads % self.key_value_heads:
            raise ValueError(
                f"model.heads={self.heads} must be a multiple of "
                f"model.key_value_heads={self.key_value_heads}: change one of them"
            )
