"""What settings of a tokenizer may be, checked before anything heavy is imported."""

from collections.abc import Mapping
from typing import Any

from everytoken.errors import check_number

SMALLEST_BPE = 256 + 5
"""A token for each byte, and the special ones."""


def check_sentinels(tokenizer: Mapping[str, Any]) -> None:
    """What all tokenizers have that are trained here."""
    check_number("tokenizer.sentinels", tokenizer.get("sentinels", 0), int, low=0, most=10_000)


def check_bpe(tokenizer: Mapping[str, Any]) -> None:
    """Refuse a vocabulary that can't write all texts, or whose ids need more than 32 bits.

    Raises:
        UserError: with the range.
    """
    check_sentinels(tokenizer)
    sample = tokenizer.get("sample_megabytes")
    check_number("tokenizer.sample_megabytes", sample, float, low=0.001, optional=True)
    size = tokenizer["vocabulary_size"]
    check_number("tokenizer.vocabulary_size", size, int, low=SMALLEST_BPE, below=2**31)


CHECKS = {
    "train_char": check_sentinels,
    "train_byte": check_sentinels,
    "train_bpe": check_bpe,
}
"""By the name of the part."""
