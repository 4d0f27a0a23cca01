"""Entities are read from tags as conlleval reads them, whatever the scheme."""

import pytest

from everytoken.corpora.schemes import entities, inside, is_begun


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("", ""),
        ("O O", ""),
        ("B-X I-X O B-X", "X0-2 X3-4"),  # IOB2
        ("I-X I-X I-Y B-Y O I-X", "X0-2 Y2-3 Y3-4 X5-6"),  # IOB1
        ("S-X B-Y I-Y E-Y", "X0-1 Y1-4"),  # IOBES
        ("U-X B-Y I-Y L-Y", "X0-1 Y1-4"),  # BILOU
        ("I-X E-X E-X", "X0-2 X2-3"),  # IOE
        ("B-X I-Y I-Y", "X0-1 Y1-3"),
        ("B-X B-X", "X0-1 X1-2"),
        ("E-X I-X", "X0-1 X1-2"),
        ("B-a-b I-a-b I-a", "a-b0-2 a2-3"),
        ("B I O", "_0-2"),
        ("NOUN B-X", "X1-2"),
    ],
)
def test_entities(tags: str, found: str) -> None:
    assert " ".join(f"{e.kind}{e.begin}-{e.end}" for e in entities(tags.split())) == found


@pytest.mark.parametrize(
    ("before", "tag", "begun"),
    [
        ("O", "O", None),
        ("B-X", "O", None),
        ("O", "B-X", True),
        ("B-Y", "B-X", True),
        ("B-X", "B-X", None),  # in IOB1 and in IOB2
        ("B-X", "I-X", None),
        ("I-X", "E-X", None),
        ("O", "S-X", True),
        ("O", "I-X", False),
        ("B-Y", "I-X", False),
        ("E-X", "I-X", False),
        ("O", "NOUN", None),
    ],
)
def test_whether_an_entity_is_begun(before: str, tag: str, begun: bool | None) -> None:
    assert is_begun(tag, before) is begun


def test_what_follows_inside() -> None:
    tags = ["B-X", "I-X", "S-a-b", "U", "O", "NOUN", "I"]
    assert [*map(inside, tags)] == ["I-X", "I-X", "I-a-b", "I", "O", "NOUN", "I"]
