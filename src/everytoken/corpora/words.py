"""Texts → words, and marked parts of a text → tags of its words."""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

Split = Literal["punctuation", "spaces", "characters"]
"""What ends a word: white space; or also a sign, which is a word of its own, as is a Chinese
character, and a change between letters and digits; or each character is a word."""

SPLITS: tuple[Split, ...] = ("punctuation", "spaces", "characters")

SPACE, LETTER, DIGIT, SIGN = range(4)
"""Kinds of characters."""

DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Marks that say in which direction a text is written, and are seen no more than a space."""

IDEOGRAPHS = ((0x3005, 0x3007), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
"""Characters of Chinese, the first and the last of each block."""


class Span(NamedTuple):
    """A marked part of a text."""

    begin: int
    """Its first character."""
    end: int
    """The one after its last."""
    label: str


def split_words(text: str, split: Split) -> list[str]:
    """The words of a text, without white space; see `Split`."""
    return [text[begin:end] for begin, end in word_places(text, split)]


def word_places(text: str, split: Split) -> Iterator[tuple[int, int]]:
    """Where each word of a text begins and ends."""
    kinds = [_kind(c) for c in text]
    if split == "spaces":
        kinds = [SPACE if c.isspace() else LETTER for c in text]
    begin = before = None
    for place, kind in enumerate([*kinds, SPACE]):
        if kind != before or kind == SIGN or split == "characters":
            if begin is not None:
                yield begin, place
            begin = None if kind == SPACE else place
        before = kind


def _kind(character: str) -> int:
    if character.isspace() or character in DIRECTIONS:
        return SPACE
    category = unicodedata.category(character)
    if category == "Nd":
        return DIGIT
    if any(first <= ord(character) <= last for first, last in IDEOGRAPHS):
        return SIGN
    # Marks are parts of letters in the scripts of South Asia; joiners are invisible parts of words.
    return LETTER if category[0] in "LMN" or category == "Cf" else SIGN


def tags_of(text: str, spans: Sequence[Span], split: Split) -> tuple[list[str], list[str]]:
    """The words of a text, and their tags: B-X at the first of a span's, I-X inside, O outside.

    Raises:
        ValueError: a span outside of the text, without a word, that overlaps another, or that cuts
            a word.
    """
    words = [*word_places(text, split)]
    tags = ["O"] * len(words)
    spans = sorted(spans)
    for span, before in zip(spans, [Span(0, 0, ""), *spans], strict=False):
        if not 0 <= span.begin < span.end <= len(text):
            raise ValueError(
                f"the span {span.begin} to {span.end} ({span.label}) isn't in its text, which has "
                f"{len(text)} characters"
            )
        if span.begin < before.end:
            raise ValueError(f"the span {_shown(text, span)} overlaps {_shown(text, before)}")
    for span in spans:
        own = [i for i, (begin, end) in enumerate(words) if begin < span.end and span.begin < end]
        if not own:
            raise ValueError(f"the span {_shown(text, span)} holds no word")
        for i in own:
            begin, end = words[i]
            if begin < span.begin or span.end < end:
                raise ValueError(
                    f"the span {_shown(text, span)} cuts the word {text[begin:end]!r:.60}: let it "
                    "end where a word does (data.split says where)"
                )
            tags[i] = f"{'I' if i > own[0] else 'B'}-{span.label}"
    return [text[begin:end] for begin, end in words], tags


def _shown(text: str, span: Span) -> str:
    return f"{text[span.begin : span.end]!r:.60} ({span.begin} to {span.end}, {span.label})"
