"""Sizes of a Transformer, checked before anything heavy is imported."""

from dataclasses import dataclass

from everytoken.errors import UserError, check_number


@dataclass(frozen=True, kw_only=True)
class BlockSizes:
    """Sizes that every block of a model shares.

    Raises:
        UserError: sizes out of range or that don't divide, with the setting to change.
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
            check_number(f"model.{name}", getattr(self, name), int, low=1)
        check_number("model.dropout", self.dropout, float, low=0, below=1)
        check_number("model.norm_eps", self.norm_eps, float, low=0)
        if self.norm_eps == 0:
            raise UserError(f"model.norm_eps must be above 0, got {self.norm_eps}")
        if self.width % (2 * self.heads):
            raise UserError(
                f"model.width={self.width} must be a multiple of 2 x model.heads={self.heads} "
                "(rotary positions turn channels in pairs): change one of them"
            )
        if self.heads % self.key_value_heads:
            raise UserError(
                f"model.heads={self.heads} must be a multiple of "
                f"model.key_value_heads={self.key_value_heads}: change one of them"
            )


def check_split(ranks: int, *, heads: int, key_value_heads: int, ffn_width: int) -> None:
    """Refuse sizes that so many ranks can't split evenly, see `tensor_parallel.py`.

    Raises:
        UserError: with the first of them.
    """
    sizes = {"heads": heads, "key_value_heads": key_value_heads, "ffn_width": ffn_width}
    for name, size in sizes.items():
        if size % ranks:
            raise UserError(
                f"trainer.tensor_parallel={ranks} must divide model.{name}={size}: change one of "
                "them"
            )


def check_checkpointed(every: object, layers: int) -> None:
    """Refuse a `checkpoint_activations` that is none, or by which no block would be checkpointed.

    Raises:
        UserError: with what to give.
    """
    is_count = isinstance(every, int) and 1 <= every <= layers
    if not isinstance(every, bool) and not is_count:
        raise UserError(
            "model.checkpoint_activations must be true, false or a number from 1 to "
            f"model.layers={layers} (every so manyth block), got {every!r}"
        )
