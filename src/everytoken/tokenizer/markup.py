"""Special tokens that are meant, among texts that may spell them and stay texts."""

import re
from collections.abc import Sequence

import tokenizers
from tokenizers import AddedToken

from everytoken.tokenizer.tokenizer import Tokenizer

Part = Sequence[str | int]
"""Texts, and ids of added tokens between them."""

ANCHOR = "\0|\0"
"""Stands before each part, for kinds that write the beginning of a text in another way."""


class Markup:
    """Encodes texts in which special tokens stand.

    Args:
        tokenizer: what makes ids of the texts.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.engine.get_added_tokens_decoder()
        self.names = {token.content: id_ for id_, token in added.items() if token.content}
        """Ids of all added tokens."""
        special = [token.content for token in added.values() if token.special and token.content]
        self.pattern = _any_of(self.names)
        """Finds the name of an added token."""
        self.special_pattern = _any_of(special)
        """Finds one that is a token only if it is meant."""
        # As ordinary tokens of another name they are found while special ones are left as texts.
        aliases = [
            AddedToken(f"\0{id_}\0", lstrip=t.lstrip, rstrip=t.rstrip, normalized=False)
            for id_, t in added.items()
        ]
        self.engine = tokenizers.Tokenizer.from_str(tokenizer.engine.to_str())
        self.engine.encode_special_tokens = True
        self.engine.add_tokens([*aliases, AddedToken(ANCHOR, normalized=False)])
        self._meant = {self.engine.token_to_id(f"\0{id_}\0"): id_ for id_ in added}

    def parts(self, text: str, as_text: Sequence[tuple[int, int]] = ()) -> list[str | int]:
        """A text cut at the names of added tokens.

        Args:
            text: with names of tokens that are meant.
            as_text: where it begins and ends to be text, whatever it spells, in order.
        """
        found: list[str | int] = []
        at = 0
        for match in self.pattern.finditer(text):
            if match.start() < at or any(
                begin < match.end() and match.start() < end for begin, end in as_text
            ):
                continue
            found += [text[at : match.start()], self.names[match.group()]]
            at = match.end()
        return [part for part in [*found, text[at:]] if part != ""]

    def encode(self, parts: Sequence[Part]) -> list[list[int]]:
        """Token ids of each part; a part's own tokens don't depend on what stands before it."""
        joined = [
            ANCHOR + "".join(p if isinstance(p, str) else f"\0{p}\0" for p in part)
            for part in parts
        ]
        encodings = self.engine.encode_batch_fast(joined, add_special_tokens=False)
        return [self._ids(encoding.ids[1:]) for encoding in encodings]

    def _ids(self, ids: list[int]) -> list[int]:
        found: list[int] = []
        for id_ in ids:
            meant = self._meant.get(id_)
            found += self.tokenizer.as_text([id_]) if meant is None else [meant]
        return found


def extended(
    tokenizer: Tokenizer,
    names: Sequence[str],
    end: str | None = None,
    chat_template: str | None = None,
) -> Tokenizer:
    """A tokenizer with further special tokens, or the same if it has all.

    Args:
        tokenizer: stays as it is.
        names: tokens that are special, and added where there are none such.
        end: name of the token that ends what is generated; None for the one that does.
        chat_template: how conversations are written; None for as it is.
    """
    added = {t.content: t for t in tokenizer.engine.get_added_tokens_decoder().values()}
    wanted = [*names, *([] if end is None else [end])]
    new = [name for name in wanted if name not in added or not added[name].special]
    engine = tokenizers.Tokenizer.from_str(tokenizer.engine.to_str()) if new else tokenizer.engine
    engine.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in new])
    special = tokenizer.special
    if end is not None:
        special = special._replace(eos=engine.token_to_id(end))
    template = chat_template or tokenizer.chat_template
    if not new and special == tokenizer.special and template == tokenizer.chat_template:
        return tokenizer
    return Tokenizer(engine, special, tokenizer.added, tokenizer.labels, template)


def _any_of(names: Sequence[str] | dict[str, int]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
