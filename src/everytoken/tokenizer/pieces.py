"""A text that is too long to be encoded at once, in pieces of which each has the same ids alone.

Where a text may be cut depends on its tokenizer, so it is asked: around each cut the two sides
alone must give what both give together.
"""

import re
from collections.abc import Callable, Iterable, Iterator

Encode = Callable[[str], list[int]]

PIECE_CHARACTERS = 100_000
"""Least of a piece: the library takes 300 bytes for each character while it encodes."""

MOST_CHARACTERS = 10 * PIECE_CHARACTERS
"""Most of one; a text without a place to be cut in so many is cut all the same."""

BESIDE_CHARACTERS = 500
"""What is looked at on each side of a cut."""

TRIES = 20
"""How many places of a kind are tried."""

PLACES = [
    re.compile(r"[^\W\d_](?= [^\W\d_])"),
    re.compile(r"\S(?=[ \n])"),
    re.compile(r"\n(?=\S)"),
    re.compile(r"[^\w\s](?=\w)"),
    re.compile(r"\w(?=\w)"),
]
"""Before what stands behind them a text is cut, the first kind first."""


def pieces(blocks: Iterable[str], encode: Encode) -> Iterator[str]:
    """The text that blocks are together, in pieces.

    A space between two pieces may be in none, where a tokenizer puts one before each text.

    Args:
        blocks: of any lengths.
        encode: token ids of a text, without marks.
    """
    rest, looked = "", 0
    for block in blocks:
        rest += block
        while len(rest) - looked > PIECE_CHARACTERS + 2 * BESIDE_CHARACTERS:
            found = _cut(rest, max(looked, PIECE_CHARACTERS), encode)
            if found is None and len(rest) < MOST_CHARACTERS:
                looked = len(rest) - PIECE_CHARACTERS
                break
            end, begin = found or (MOST_CHARACTERS, MOST_CHARACTERS)
            yield rest[:end]
            rest, looked = rest[begin:], 0
    if rest:
        yield rest


def _cut(text: str, begin: int, encode: Encode) -> tuple[int, int] | None:
    """Where a piece ends and the next begins, not before `begin`; None if it can't be cut."""
    for place in PLACES:
        found = place.finditer(text, begin, len(text) - BESIDE_CHARACTERS)
        for _, match in zip(range(TRIES), found, strict=False):
            end = match.end()
            left, right = text[end - BESIDE_CHARACTERS : end], text[end : end + BESIDE_CHARACTERS]
            both, alone = encode(left + right), encode(left)
            for skipped in (0, 1) if right[0] == " " else (0,):
                if both == alone + encode(right[skipped:]):
                    return end, end + skipped
    return None
