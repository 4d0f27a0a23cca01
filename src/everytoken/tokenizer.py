"""Text ↔ token ids. One class over Hugging Face `tokenizers`; kinds differ in what is one token.

All kinds are saved as `tokenizer.json`, which other tools read too. The special tokens are always
the first five ids, and text that spells one ("<eos>") is still plain text.
"""

from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from everytoken.errors import UserError
from everytoken.objective import SpecialIds

SPECIAL_TOKENS = ["<pad>", "<bos>", "<eos>", "<unk>", "<mask>"]


class Tokenizer:
    """Encodes and decodes text.

    Args:
        engine: a trained tokenizer whose first ids are SPECIAL_TOKENS.
    """

    special = SpecialIds(*range(len(SPECIAL_TOKENS)))

    def __init__(self, engine: tokenizers.Tokenizer) -> None:
        engine.encode_special_tokens = True
        self.engine = engine

    def __len__(self) -> int:
        return self.engine.get_vocab_size()

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens (but <unk> where a kind needs it)."""
        encodings = self.engine.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_with_masks(self, text: str) -> list[int]:
        """Token ids of one text in which each "<mask>" is the mask token."""
        first, *rest = self.encode(text.split(SPECIAL_TOKENS[self.special.mask]))
        return [*first, *(token for part in rest for token in (self.special.mask, *part))]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; special tokens are left out."""
        return self.engine.decode(list(ids), skip_special_tokens=True)

    def show(self, ids: Iterable[int]) -> str:
        """The text of token ids for the eye: special tokens but <pad>, <bos>, <eos> as a sign."""
        signs = {self.special.mask: "▁", self.special.unk: "�"}
        hidden = {self.special.pad, self.special.bos, self.special.eos}
        parts: list[str] = []
        run: list[int] = []
        for token in [*ids, self.special.pad]:
            if token in signs or token in hidden:
                parts += [self.decode(run), signs.get(token, "")]
                run = []
            else:
                run.append(token)
        return "".join(parts)

    def save(self, path: Path) -> None:
        """Write `tokenizer.json`."""
        self.engine.save(str(path))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read what `save` wrote.

        Raises:
            UserError: missing or broken file.
        """
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"can't read the tokenizer {path}: {error}") from error


def train_char(texts: Iterable[str]) -> Tokenizer:
    """One token per Unicode character that occurs in the texts; others become <unk>."""
    found: set[str] = set()
    for text in texts:  # one by one: all texts at once may be too many
        found.update(text)
    characters = sorted(found)
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *characters])}
    engine = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    engine.decoder = decoders.Fuse()
    return Tokenizer(_with_special_tokens(engine))


def train_byte(texts: Iterable[str]) -> Tokenizer:
    """One token per UTF-8 byte; nothing is unknown and nothing is learned."""
    return _byte_level([], vocabulary_size=len(SPECIAL_TOKENS) + 256)


def train_bpe(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Byte-pair encoding over UTF-8 bytes (Sennrich et al. 2016); nothing is unknown."""
    return _byte_level(texts, vocabulary_size)


def _byte_level(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    engine = tokenizers.Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=_added_tokens(),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)
    return Tokenizer(engine)


def _with_special_tokens(engine: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    engine.add_special_tokens(_added_tokens())
    return engine


def _added_tokens() -> list[AddedToken]:
    return [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
