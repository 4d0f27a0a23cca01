"""Which tokens of a tokenizer mean padding, begin, end, unknown and mask."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken

from everytoken.errors import UserError


class SpecialIds(NamedTuple):
    """Ids of the tokens that no text contains. Several may be one token; None is for no token."""

    pad: int
    bos: int
    eos: int
    unk: int | None
    mask: int | None


KNOWN_NAMES = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "bos": ("<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>"),
    "cls": ("[CLS]", "<cls>"),
    "eos": ("<eos>", "</s>", "<|end_of_text|>", "<|endoftext|>"),
    "sep": ("[SEP]", "<sep>"),
    "unk": ("<unk>", "[UNK]"),
    "mask": ("<mask>", "[MASK]"),
}
"""What special tokens are called where no file and no setting says it, by role."""


def find_special(
    engine: tokenizers.Tokenizer, described: Mapping[str, Any], named: Mapping[str, str | None]
) -> SpecialIds:
    """The ids of the special tokens; without a pad token it is the end, which lengths tell apart.

    A role is played by the token that the user named, else the one that the tokenizer's own config
    describes (which is added if it has no id yet, as transformers does), else an added token with
    a well-known name. A missing begin is a [CLS], else the end; a missing end a [SEP], else the
    begin.

    Args:
        engine: found tokens become special in it.
        described: what tokenizer_config.json and special_tokens_map.json say ("eos_token", …).
        named: the user's names by role ("eos", …); None for not named.

    Raises:
        UserError: a named token that isn't in the vocabulary, or neither begin nor end.
    """
    added = {token.content: token for token in engine.get_added_tokens_decoder().values()}

    def find(role: str) -> int | None:
        if name := named.get(role):
            if engine.token_to_id(name) is None:
                raise UserError(
                    f"tokenizer.{role}={name!r} is not in the tokenizer's vocabulary: "
                    "name one of its tokens"
                )
        else:
            known = (token for token in KNOWN_NAMES[role] if token in added)
            name = _content(described.get(f"{role}_token")) or next(known, None)
        if name is None:
            return None
        if name not in added or not added[name].special:
            engine.add_special_tokens([AddedToken(name, special=True, normalized=False)])
        return engine.token_to_id(name)

    pad, unk, mask = find("pad"), find("unk"), find("mask")
    begin, end = _first(find("bos"), find("cls")), _first(find("eos"), find("sep"))
    bos, eos = _first(begin, end), _first(end, begin)
    if bos is None or eos is None:
        raise UserError(
            "the tokenizer has neither a begin nor an end token, so no text could end: "
            "name one of its tokens with tokenizer.eos"
        )
    return SpecialIds(eos if pad is None else pad, bos, eos, unk, mask)


def _content(token: Any) -> str | None:
    """The name of a token, which files give as a string or as an AddedToken's settings."""
    name = token.get("content") if isinstance(token, Mapping) else token
    return name if isinstance(name, str) and name else None


def _first(*ids: int | None) -> int | None:
    return next((id_ for id_ in ids if id_ is not None), None)
