"""Sentinels: special tokens that stand for spans of a text which are left out.

They are called as T5's are, `<extra_id_0>` for the first span, and so on.
"""

import tokenizers
from tokenizers import AddedToken

NAME = "<extra_id_{}>"


def add_sentinels(engine: tokenizers.Tokenizer, count: int) -> None:
    """Add so many to a vocabulary, at its end, the first one last as T5 has it."""
    names = [NAME.format(number) for number in reversed(range(count))]
    engine.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])


def find_sentinels(engine: tokenizers.Tokenizer) -> list[int]:
    """The ids of all that there are, in order: special tokens only, which no text has."""
    added = engine.get_added_tokens_decoder().items()
    special = {token.content: id_ for id_, token in added if token.special}
    found: list[int] = []
    while (name := NAME.format(len(found))) in special:
        found.append(special[name])
    return found
