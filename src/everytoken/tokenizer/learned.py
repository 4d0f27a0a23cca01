"""Tokenizers that are learned from texts: of characters, of bytes, of pairs of pairs of bytes."""

from collections.abc import Iterable

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from everytoken.tokenizer.sample import Sample
from everytoken.tokenizer.sentinels import add_sentinels
from everytoken.tokenizer.special import SpecialIds
from everytoken.tokenizer.tokenizer import BYTES, CHARACTERS, Tokenizer

SPECIAL_TOKENS = ["<pad>", "<bos>", "<eos>", "<unk>", "<mask>"]
"""Special tokens of the tokenizers that are trained here."""

SPECIAL = SpecialIds(0, 1, 2, 3, 4)
"""Their ids."""

LONGEST_PIECE = Regex(r"[\s\S]{1024}")
"""Where a word is longer than so many bytes, byte-pair encoding is learned from parts of it: it
takes time as the square of a word's length, and a text without white space is one word."""

SMALLEST_BPE = len(SPECIAL_TOKENS) + 256


def train_char(texts: Iterable[str], sentinels: int = 0) -> Tokenizer:
    """One token per Unicode character that occurs in the texts; others become <unk>.

    Args:
        texts: of the training split.
        sentinels: how many tokens are added that stand for spans, see `sentinels.py`.
    """
    found: set[str] = set()
    for text in texts:  # one by one: all texts at once may be too many
        found.update(text)
    characters = sorted(found)
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *characters])}
    engine = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    engine.pre_tokenizer = CHARACTERS
    engine.decoder = decoders.Fuse()
    engine.add_special_tokens(_added_tokens())
    add_sentinels(engine, sentinels)
    return Tokenizer(engine, SPECIAL)


def train_byte(texts: Iterable[str], sentinels: int = 0) -> Tokenizer:
    """One token per UTF-8 byte; nothing is unknown and nothing is learned. See `train_char`."""
    return _byte_level([], SMALLEST_BPE, _added_tokens(), sentinels)


def train_bpe(
    texts: Iterable[str],
    vocabulary_size: int,
    sentinels: int = 0,
    sample_megabytes: float | None = None,
) -> Tokenizer:
    """Byte-pair encoding over UTF-8 bytes (Sennrich et al. 2016); nothing is unknown.

    Sentinels come on top of `vocabulary_size`, see `train_char`. Of more texts than
    `sample_megabytes`, it is learned from some, see `Sample`; None for all.

    Raises:
        ValueError: a vocabulary too small for the bytes and the special tokens.
    """
    if vocabulary_size < SMALLEST_BPE:
        raise ValueError(
            f"vocabulary_size must be at least {SMALLEST_BPE}, for 256 bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens, got {vocabulary_size}"
        )
    # Tokens of words begin with the space before them, and so does what a mask stands for.
    sample = Sample(texts, sample_megabytes)
    special = _added_tokens(mask_has_space=True)
    tokenizer = _byte_level(sample, vocabulary_size, special, sentinels)
    tokenizer.learned_from = str(sample)
    return tokenizer


def _byte_level(
    texts: Iterable[str], vocabulary_size: int, special: list[AddedToken], sentinels: int
) -> Tokenizer:
    engine = tokenizers.Tokenizer(models.BPE())
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [BYTES, pre_tokenizers.Split(LONGEST_PIECE, "isolated")]
    )
    engine.train_from_iterator(texts, trainer)
    engine.pre_tokenizer = BYTES
    add_sentinels(engine, sentinels)
    return Tokenizer(engine, SPECIAL)


def _added_tokens(*, mask_has_space: bool = False) -> list[AddedToken]:
    return [
        AddedToken(
            token, special=True, normalized=False, lstrip=mask_has_space and token == "<mask>"
        )
        for token in SPECIAL_TOKENS
    ]
