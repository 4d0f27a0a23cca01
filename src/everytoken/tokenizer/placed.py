"""Tokens with the part of the text that each stands for."""

from typing import NamedTuple

from everytoken.tokenizer.tokenizer import Tokenizer


class Placed(NamedTuple):
    """A token and its part of a text."""

    id: int
    begin: int
    """Its first character."""
    end: int
    """The one after its last."""


def encode_with_offsets(tokenizer: Tokenizer, texts: list[str]) -> list[list[Placed]]:
    """Token ids of each text, as `Tokenizer.encode` gives them, with their places.

    Parts overlap where a character is of several tokens. The space before a word may belong to the
    word's first token, and what a tokenizer leaves out of a text belongs to none.

    Raises:
        UserError: as `Tokenizer.encode` does.
    """
    pieces = [tokenizer.parts(text) for text in texts]
    encodings = iter(tokenizer.encodings([p for row in pieces for p in row], with_offsets=True))
    found = []
    for row in pieces:
        start, placed = 0, list[Placed]()
        for piece, encoding in zip(row, encodings, strict=False):
            placed += [
                Placed(own, start + begin, start + end)
                for id_, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True)
                for own in tokenizer.as_text([id_])
            ]
            start += len(piece)
        found.append(placed)
    return found
