"""Text ↔ token ids. One class over Hugging Face `tokenizers`; kinds differ in what is one token.

Those that are learned here are in `learned.py`. All are saved as `tokenizer.json` and
`tokenizer_config.json`, which other tools read too.
Text that spells a special token ("<eos>") is still plain text.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import tokenizers
from tokenizers import Regex, models, pre_tokenizers

from everytoken.errors import UserError
from everytoken.tokenizer import files
from everytoken.tokenizer.names import Labels, Names
from everytoken.tokenizer.pieces import PIECE_CHARACTERS, pieces
from everytoken.tokenizer.sentinels import find_sentinels
from everytoken.tokenizer.special import SpecialIds
from everytoken.tokenizer.spelling import keep_as_text

CHARACTERS = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
CUTTING = [CHARACTERS.__getstate__(), BYTES.__getstate__()]
"""What makes no token across the begin of white space, so that a long text may be cut there."""

SPACES = ("Ġ", "▁")
"""How a space is written in the names of tokens over bytes, and of SentencePiece's."""

TOGETHER = 4
"""Parts of a long text that are encoded at a time."""

PIECE = re.compile(rf".{{{PIECE_CHARACTERS}}}.*?\S(?=[ \n])|.+", re.DOTALL)
"""Parts of a long text: the library takes 300 bytes for each character while it encodes."""


class RoundTrip(NamedTuple):
    """What became of texts that were encoded and decoded."""

    changed: float
    """Share of the texts that came back as something else, 0 to 1."""
    example: tuple[str, str] | None
    """The first of them, and what came back."""


class Tokenizer:
    """Encodes and decodes text.

    Args:
        engine: a trained tokenizer. Its padding, truncation and random choices (dropout) are
            switched off, and its post-processor isn't asked for special tokens.
        special: ids of its special tokens.
        added: tokens that its file lacks, and that a config beside the file names.
        labels: names of the classes that a model tells apart, by id; none where it predicts tokens.
        chat_template: how a conversation is written, in Jinja; None if nobody has said it.
    """

    def __init__(
        self,
        engine: tokenizers.Tokenizer,
        special: SpecialIds,
        added: Sequence[str] = (),
        labels: Sequence[str] = (),
        chat_template: str | None = None,
    ) -> None:
        engine.encode_special_tokens = True
        engine.no_padding()
        engine.no_truncation()
        _without_chance(engine)
        self._spelled = keep_as_text(engine, special)
        self.engine = engine
        self.special = special
        self.added = added
        self.labels = list(labels)
        self.chat_template = chat_template
        self.learned_from = ""
        """Which texts, in words, if it was learned just now, and not from all."""
        self._cuts = (
            engine.normalizer is None
            and engine.pre_tokenizer is not None
            and engine.pre_tokenizer.__getstate__() in CUTTING
            and all(token.special for token in engine.get_added_tokens_decoder().values())
        )
        self._size = max(engine.get_vocab().values()) + 1

    def __len__(self) -> int:
        """V: all ids are below it, and there may be ids that no token has."""
        return self._size

    @property
    def last_special(self) -> int:
        """How many ids at its end are those of special tokens, as of all that it was given since
        models know it."""
        added = self.engine.get_added_tokens_decoder()
        ids = range(len(self) - 1, -1, -1)
        return sum(1 for _ in takewhile(lambda i: i in added and added[i].special, ids))

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens (but <unk> where a kind needs it).

        Raises:
            UserError: a text that a tokenizer of others has no tokens for, not even an unknown one.
        """
        if max(map(len, texts), default=0) <= PIECE_CHARACTERS:
            return [self.as_text(encoding.ids) for encoding in self.encodings(texts)]
        if not self._cuts:
            return [[t for ids in self.encode_blocks([text]) for t in ids] for text in texts]
        return [
            [t for part in self.parts(text) for t in self.as_text(self.encodings([part])[0].ids)]
            for text in texts
        ]

    def encode_blocks(self, blocks: Iterable[str]) -> Iterator[list[int]]:
        """Token ids of the one text that blocks of any lengths are together, part by part.

        Raises:
            UserError: as `encode` does.
        """
        parts = pieces(blocks, lambda text: self.encodings([text])[0].ids)
        while several := list(islice(parts, TOGETHER)):
            for encoding in self.encodings(several):
                yield self.as_text(encoding.ids)

    def parts(self, text: str) -> list[str]:
        """The text in parts of which each may be encoded alone."""
        return PIECE.findall(text) if self._cuts else [text]

    def encodings(
        self, texts: list[str], *, with_offsets: bool = False
    ) -> list[tokenizers.Encoding]:
        """What the library makes of texts, before `as_text`; raises as `encode` does."""
        engine = self.engine
        encode = engine.encode_batch if with_offsets else engine.encode_batch_fast
        try:
            return encode(texts, add_special_tokens=False)
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"the tokenizer can't write all texts: {error}") from error

    def as_text(self, ids: list[int], but: int | None = None) -> list[int]:
        """Ids without special ones that stand for a text which spells them; one may stay."""
        if not self._spelled:
            return ids
        return [t for id_ in ids for t in ([id_] if id_ == but else self._spelled.get(id_, [id_]))]

    def encode_with_masks(self, text: str) -> list[int]:
        """Token ids of one text in which each mask token's name ("<mask>") is the mask token.

        White space beside a mask belongs to it or not, as its tokenizer has it.
        """
        mask = self.special.mask
        if mask is None:
            return self.encode([text])[0]
        return self.as_text(self.with_masks.encode(text, add_special_tokens=False).ids, mask)

    @cached_property
    def with_masks(self) -> tokenizers.Tokenizer:
        """An engine that takes the name of the mask for the mask, and no other for its token."""
        state = json.loads(self.engine.to_str())
        for token in state["added_tokens"]:
            if token["id"] == self.special.mask:
                token["special"] = False  # only special ones are left out of a text
        engine = tokenizers.Tokenizer.from_str(json.dumps(state))
        engine.encode_special_tokens = True
        return engine

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; special tokens are left out."""
        return self.engine.decode(list(ids), skip_special_tokens=True)

    def continuation(self, ids: Iterable[int], before: Iterable[int]) -> str:
        """The text that ids add to the text of those before them, with the space between both.

        After an end they are a text of its own.
        """
        before, ids = list(before), list(ids)
        if before[-1:] == [self.special.eos]:
            return self.decode(ids)
        start, whole = self.decode(before), self.decode(before + ids)
        # Where a character's bytes are broken, those before them may be shown in another way.
        return whole[len(start) :] if whole.startswith(start) else self.decode(ids)

    def decode_filled(self, ids: Sequence[int], filled: Iterable[int]) -> str:
        """The text of token ids, some of which were filled in where a mask stood.

        A space that stands before a mask goes if the token that was filled in brings its own.

        Args:
            ids: of the whole text.
            filled: their places.
        """
        names = [self.engine.id_to_token(id_) or "" for id_ in ids]
        twice = {i - 1 for i in filled if i and names[i - 1] in SPACES and names[i][:1] in SPACES}
        return self.decode(id_ for i, id_ in enumerate(ids) if i not in twice)

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
        signs |= {sentinel: self.name(sentinel) for sentinel in self.sentinels}
        signs |= dict.fromkeys(self.hidden, "")
        parts: list[str] = []
        run: list[int] = []
        for token in [*ids, self.special.pad]:
            if token in signs:
                parts += [self.decode(run), signs[token]]
                run = []
            else:
                run.append(token)
        return "".join(parts)

    @cached_property
    def sentinels(self) -> list[int]:
        """Ids of tokens that stand for spans of a text, in their order."""
        return find_sentinels(self.engine)

    @property
    def hidden(self) -> tuple[int, ...]:
        """Ids that `show` leaves out."""
        return self.special.pad, self.special.bos, self.special.eos

    def name(self, id_: int) -> str:
        """What a token is called; a number of what is none."""
        return self.engine.id_to_token(id_) or f"#{id_}"

    @property
    def targets(self) -> Names:
        """What ids mean that are predicted: classes, or tokens as in what is read."""
        return Labels(self.labels) if self.labels else self

    def save(self, path: Path) -> None:
        """Write `tokenizer.json` and, beside it, transformers' `tokenizer_config.json`."""
        files.write(self.engine, self.special, path, self.labels, self.chat_template)

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
        return cls(*files.read(Path(path), named))


def _without_chance(engine: tokenizers.Tokenizer) -> None:
    """Give a text the same ids each time: nothing is dropped or sampled."""
    model: Any = engine.model
    if isinstance(model, models.BPE) and model.dropout is not None:
        model.dropout = None
    if isinstance(model, models.Unigram) and (model.alpha, model.nbest_size) != (None, None):
        model.alpha = model.nbest_size = None
