"""Schemes of tags, and the entities that sequences of tags make.

Tags may be of any scheme that begins or continues entities: IOB1, IOB2 (BIO), IOE, IOBES, BILOU.
Where they don't follow each other as their scheme has it, entities are read as conlleval reads them
(Tjong Kim Sang and De Meulder 2003).
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

OUTSIDE = "O"
TAG = re.compile(r"([BIESLU])(?:-(.+))?", re.DOTALL)
UNNAMED = "_"
"""The kind of entities whose tags are B and I alone."""

SAME = {"L": "E", "U": "S"}
"""Of BILOU, what IOBES calls it."""


def parsed(tag: str) -> tuple[str, str] | None:
    """How a tag continues an entity, in IOBES, and of which kind; None of one that doesn't."""
    found = TAG.fullmatch(tag)
    return (SAME.get(found[1], found[1]), found[2] or UNNAMED) if found else None


def inside(tag: str) -> str:
    """The tag of what follows in the same entity: I-X after B-X; of what has none, the tag."""
    return f"I{tag[1:]}" if TAG.fullmatch(tag) else tag


def is_begun(tag: str, before: str) -> bool | None:
    """Whether a tag says itself that an entity begins (B-X), where one does.

    Args:
        tag: a tag.
        before: the one before it; `OUTSIDE` at the beginning.

    Returns:
        False if it continues one that isn't there; None if it continues one, or is outside.
    """
    part, kind = parsed(tag) or (OUTSIDE, "")
    part_before, kind_before = parsed(before) or (OUTSIDE, "")
    goes_on = part_before in "BI" and kind == kind_before
    if part == OUTSIDE or (part in "IE" and goes_on):
        return None
    return None if goes_on and part == "B" else part in "BS"


class Entity(NamedTuple):
    """An entity of a sequence."""

    kind: str
    begin: int
    """Its first word."""
    end: int
    """The one after its last."""


def entities(tags: Sequence[str]) -> Iterator[Entity]:
    """The entities of a sequence of tags; what isn't in the form B-X is outside."""
    begin, before, kind_before = 0, OUTSIDE, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        part, kind = parsed(tag) or (OUTSIDE, "")
        # The end or the beginning of an entity says that another begins here; so does another kind.
        is_new = part in "BS" or before in "OES" or kind != kind_before
        if is_new and before != OUTSIDE:
            yield Entity(kind_before, begin, place)
        if is_new:
            begin = place
        before, kind_before = part, kind
