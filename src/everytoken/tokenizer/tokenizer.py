"""Text ↔ token ids. One class over Hugging Face `tokenizers`; kinds differ in what is one token.

All kinds are saved as `tokenizer.json` and `tokenizer_config.json`, which other tools read too.
Text that spells a special token ("<eos>") is still plain text.
"""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from everytoken.errors import UserError, one_line
from everytoken.tokenizer.special import SpecialIds, find_special

SPECIAL_TOKENS = ["<pad>", "<bos>", "<eos>", "<unk>", "<mask>"]
"""Special tokens of the tokenizers that are trained here."""

SPECIAL = SpecialIds(0, 1, 2, 3, 4)
"""Their ids."""

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""Name of a token that stands for one byte, where a model falls back on bytes."""

CHARACTERS = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
CUTTING = [CHARACTERS.__getstate__(), BYTES.__getstate__()]
"""What makes no token across the begin of white space, so that a long text may be cut there."""

PIECE_CHARACTERS = 100_000
PIECE = re.compile(rf".{{{PIECE_CHARACTERS}}}.*?\S(?=[ \n])|.+", re.DOTALL)
"""Parts of a long text: the library takes 300 bytes for each character while it encodes."""

SMALLEST_BPE = len(SPECIAL_TOKENS) + 256

FILE = "tokenizer.json"
CONFIG_FILES = ("special_tokens_map.json", "tokenizer_config.json")
"""Where Hugging Face's tokenizers name their special tokens; the later one has the last word."""


class RoundTrip(NamedTuple):
    """What became of texts that were encoded and decoded."""

    changed: float
    """Share of the texts that came back as something else, 0 to 1."""
    example: tuple[str, str] | None
    """The first of them, and what came back."""


class Tokenizer:
    """Encodes and decodes text.

    Args:
        engine: a trained tokenizer. Its padding and truncation are switched off, and its
            post-processor isn't asked for special tokens.
        special: ids of its special tokens.
    """

    def __init__(self, engine: tokenizers.Tokenizer, special: SpecialIds) -> None:
        engine.encode_special_tokens = True
        engine.no_padding()
        engine.no_truncation()
        self.engine = engine
        self.special = special
        self._cuts = (
            engine.normalizer is None
            and engine.pre_tokenizer is not None
            and engine.pre_tokenizer.__getstate__() in CUTTING
            and all(token.special for token in engine.get_added_tokens_decoder().values())
        )
        self._size = max(engine.get_vocab().values()) + 1
        self._spelled = self._spell({special.pad, special.bos, special.eos, special.mask} - {None})

    def __len__(self) -> int:
        """V: all ids are below it, and there may be ids that no token has."""
        return self._size

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens (but <unk> where a kind needs it).

        Raises:
            UserError: a text that a tokenizer of others has no tokens for, not even an unknown one.
        """
        if not self._cuts or max(map(len, texts), default=0) <= PIECE_CHARACTERS:
            return self._encode(texts)
        return [
            [token for piece in PIECE.findall(text) for token in self._encode([piece])[0]]
            for text in texts
        ]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        try:
            encodings = self.engine.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"the tokenizer can't write all texts: {error}") from error
        if not self._spelled:
            return [encoding.ids for encoding in encodings]
        return [
            [part for token in encoding.ids for part in self._spelled.get(token, (token,))]
            for encoding in encodings
        ]

    def encode_with_masks(self, text: str) -> list[int]:
        """Token ids of one text in which each mask token's name ("<mask>") is the mask token."""
        mask = self.special.mask
        if mask is None:
            return self.encode([text])[0]
        first, *rest = self.encode(text.split(self.engine.id_to_token(mask)))
        return [*first, *(token for part in rest for token in (mask, *part))]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; special tokens are left out."""
        return self.engine.decode(list(ids), skip_special_tokens=True)

    def round_trip(self, texts: list[str]) -> RoundTrip:
        """Which of some texts `decode(encode(text))` gives back as they are.

        Raises:
            UserError: as `encode` does.
        """
        decoded = self.engine.decode_batch(self.encode(texts), skip_special_tokens=True)
        changed = [pair for pair in zip(texts, decoded, strict=True) if pair[0] != pair[1]]
        return RoundTrip(len(changed) / max(1, len(texts)), changed[0] if changed else None)

    def show(self, ids: Iterable[int]) -> str:
        """The text of token ids for the eye: mask and unknown as a sign, pad, begin, end hidden."""
        signs = {self.special.mask: "▁", self.special.unk: "�"}
        signs |= dict.fromkeys((self.special.pad, self.special.bos, self.special.eos), "")
        parts: list[str] = []
        run: list[int] = []
        for token in [*ids, self.special.pad]:
            if token in signs:
                parts += [self.decode(run), signs[token]]
                run = []
            else:
                run.append(token)
        return "".join(parts)

    def byte_lengths(self) -> list[int]:
        """How many bytes of UTF-8 text each of the V ids stands for; special tokens for none.

        Exact for the tokenizers that are trained here and for any over bytes. For others it is
        what a token adds to a text when it is decoded, so what normalisation changed isn't counted.
        """
        engine, context = self.engine, self.encode(["a"])[0][-1:]
        added = engine.get_added_tokens_decoder()
        over_bytes = isinstance(engine.decoder, decoders.ByteLevel)
        falls_back = getattr(engine.model, "byte_fallback", False)
        lengths, asked = [0] * len(self), []
        for token, id_ in engine.get_vocab().items():
            if id_ in self.special or (id_ in added and added[id_].special):
                continue
            if id_ in added:
                lengths[id_] = len(token.encode())
            elif over_bytes:
                lengths[id_] = len(token)  # one character stands for each byte
            elif falls_back and BYTE.fullmatch(token):
                lengths[id_] = 1
            else:
                asked.append(id_)
        before = len(engine.decode(context).encode())
        for id_, text in zip(
            asked, engine.decode_batch([[*context, i] for i in asked]), strict=True
        ):
            lengths[id_] = len(text.encode()) - before
        return lengths

    def save(self, path: Path) -> None:
        """Write `tokenizer.json` and, beside it, transformers' `tokenizer_config.json`."""
        names = {
            f"{role}_token": self.engine.id_to_token(id_)
            for role, id_ in self.special._asdict().items()
            if id_ is not None
        }
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
        config["clean_up_tokenization_spaces"] = False
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        path.with_name(CONFIG_FILES[-1]).write_text(text, encoding="utf-8")
        self.engine.save(str(path))

    @classmethod
    def load(
        cls, path: Path | str, named: Mapping[str, str | None] = MappingProxyType({})
    ) -> "Tokenizer":
        """Read a `tokenizer.json`, and who plays which role from the files beside it.

        Args:
            path: the file.
            named: special tokens by role that the user names, see `find_special`.

        Raises:
            UserError: missing or broken file, or one without a begin and an end token.
        """
        file = path = Path(path)
        try:
            engine = tokenizers.Tokenizer.from_file(str(path))
            described: dict[str, Any] = {}
            for file in filter(Path.is_file, map(path.with_name, CONFIG_FILES)):
                described |= json.loads(file.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception
            reason = one_line(error)
            raise UserError(f"can't read the tokenizer {file}: {reason}") from error
        try:
            return cls(engine, find_special(engine, described, named))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def _spell(self, special: set[int | None]) -> dict[int, list[int]]:
        """Ordinary tokens for special ones that the model finds in a text that spells them.

        Kinds that choose among all tokens (Unigram, whole words) do.
        """
        names = {id_: str(self.engine.id_to_token(id_)) for id_ in special if id_ is not None}
        found = {
            id_ for id_, name in names.items() if id_ in self._found(f"a {name} a{name}", name)
        }
        return {id_: ids for id_ in found if (ids := self._letters(names[id_]))}

    def _letters(self, name: str) -> list[int]:
        """A name letter by letter, or byte by byte, or as unknown; empty if no ids can."""
        for parts in (list(name), [f"<0x{byte:02X}>" for byte in name.encode()]):
            found = [self.engine.token_to_id(part) for part in parts]
            ids = [id_ for id_ in found if id_ is not None and id_ not in self.special]
            if len(ids) == len(parts):
                return ids
        return [] if self.special.unk is None else [self.special.unk]

    def _found(self, *texts: str) -> set[int]:
        found: set[int] = set()
        for text in texts:
            with suppress(Exception):  # it has no tokens for the text, see `encode`
                found.update(self.engine.encode(text, add_special_tokens=False).ids)
        return found


def train_char(texts: Iterable[str]) -> Tokenizer:
    """One token per Unicode character that occurs in the texts; others become <unk>."""
    found: set[str] = set()
    for text in texts:  # one by one: all texts at once may be too many
        found.update(text)
    characters = sorted(found)
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *characters])}
    engine = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    engine.pre_tokenizer = CHARACTERS
    engine.decoder = decoders.Fuse()
    engine.add_special_tokens(_added_tokens())
    return Tokenizer(engine, SPECIAL)


def train_byte(texts: Iterable[str]) -> Tokenizer:
    """One token per UTF-8 byte; nothing is unknown and nothing is learned."""
    return _byte_level([], SMALLEST_BPE)


def train_bpe(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Byte-pair encoding over UTF-8 bytes (Sennrich et al. 2016); nothing is unknown.

    Raises:
        ValueError: a vocabulary too small for the bytes and the special tokens.
    """
    if vocabulary_size < SMALLEST_BPE:
        raise ValueError(
            f"vocabulary_size must be at least {SMALLEST_BPE}, for 256 bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens, got {vocabulary_size}"
        )
    return _byte_level(texts, vocabulary_size)


def _byte_level(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    engine = tokenizers.Tokenizer(models.BPE())
    engine.pre_tokenizer = BYTES
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=_added_tokens(),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)
    return Tokenizer(engine, SPECIAL)


def _added_tokens() -> list[AddedToken]:
    return [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
