"""Text that spells a special token ("<eos>") stays text, for whatever reads the tokenizer's file.

The library's own switch leaves added tokens out of a text. But kinds that choose among all tokens
(Unigram, whole words) find them again, since these are pieces or words of theirs like others.
"""

import re
from collections.abc import Iterable
from contextlib import suppress

import tokenizers
from tokenizers import Regex, pre_tokenizers

from everytoken.tokenizer.special import SpecialIds

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""Name of a token that stands for one byte, where a model falls back on bytes."""


def keep_as_text(engine: tokenizers.Tokenizer, special: SpecialIds) -> dict[int, list[int]]:
    """Cut the names of special tokens into letters where the model would find them in a text.

    The cut is a part of the engine, so that it is saved with it.

    Returns:
        Ordinary ids to take instead of a special one that is found even so: one that has a single
        letter, say.
    """
    special_ids = {id_ for id_, t in engine.get_added_tokens_decoder().items() if t.special}
    roles = {special.pad, special.bos, special.eos, special.mask} - {None}
    names = {id_: str(engine.id_to_token(id_)) for id_ in (special_ids | roles) - {special.unk}}
    names = {id_: name for id_, name in names.items() if not BYTE.fullmatch(name)}
    if found := _found(engine, names):
        cut = pre_tokenizers.Split(Regex(_letters(found.values())), "isolated")
        before = engine.pre_tokenizer
        engine.pre_tokenizer = pre_tokenizers.Sequence([before, cut]) if before else cut
    left = {id_: _ordinary(engine, name, special) for id_, name in _found(engine, found).items()}
    return {id_: ids for id_, ids in left.items() if ids}


def _found(engine: tokenizers.Tokenizer, names: dict[int, str]) -> dict[int, str]:
    """Those of the special tokens that are found in a text which spells them."""
    found: dict[int, str] = {}
    for id_, name in names.items():
        for text in (name, f"a {name} a{name}"):
            with suppress(Exception):  # it has no tokens for the text, see `Tokenizer.encode`
                if id_ in engine.encode(text, add_special_tokens=False).ids:
                    found[id_] = name
    return found


def _letters(names: Iterable[str]) -> str:
    """A pattern of each letter of a name, where the whole name stands."""
    parts: list[str] = []
    for name in names:
        for i, letter in enumerate(name):
            before, after = re.escape(name[:i]), re.escape(name[i + 1 :])
            parts.append(f"(?<={before}){re.escape(letter)}(?={after})")
    return "|".join(parts)


def _ordinary(engine: tokenizers.Tokenizer, name: str, special: SpecialIds) -> list[int]:
    """A name letter by letter, or byte by byte, or as unknown; empty if no ids can."""
    for parts in (list(name), [f"<0x{byte:02X}>" for byte in name.encode()]):
        found = [engine.token_to_id(part) for part in parts]
        ids = [id_ for id_ in found if id_ is not None and id_ not in special]
        if len(ids) == len(parts):
            return ids
    return [] if special.unk is None else [special.unk]
