"""A prediction for the page: texts in pieces, right or wrong; entities under their names."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from everytoken.callbacks.predictions import hits, pieces, source_pieces
from everytoken.corpora.schemes import OUTSIDE, Entity, entities, parsed
from everytoken.decoding.generate import Prediction
from everytoken.tokenizer.tokenizer import Tokenizer

LONGEST = 80
"""Tokens that the report shows of a text."""


class Mark(NamedTuple):
    """Words that are one entity, or none."""

    text: str
    is_right: bool
    """True if the other side has the same entity; of what is none, always."""
    kind: str | None
    """What it is called; None of words outside of any."""


def shown(example: Prediction, tokenizer: Tokenizer) -> dict[str, Any]:
    """An example for the page. Tagged words stand in target and prediction: there is no source."""
    if words := _words(example, tokenizer):
        found, wanted = (_entities(ids, tokenizer) for ids in (example.prediction, example.target))
        return {
            "source": [],
            "target": _marked(words, wanted, found),
            "prediction": _marked(words, found, wanted),
        }
    found, right = hits(example)
    return {
        "source": source_pieces(example, tokenizer, LONGEST),
        "target": pieces(example.target, found, tokenizer.targets, LONGEST),
        "prediction": pieces(example.prediction, right, tokenizer.targets, LONGEST),
    }


def _words(example: Prediction, tokenizer: Tokenizer) -> list[str]:
    """The words that were tagged, with what stands before the next; none if a text is of a class.

    Of a long text the last word is only its beginning.
    """
    read = example.source
    if not tokenizer.labels or not example.places or read[0] == tokenizer.special.bos:
        return []
    places = [place for place in example.places if place < LONGEST]
    before = [tokenizer.show(read[:end]) for end in (*places, LONGEST)]
    words = [b[len(a) :] for a, b in pairwise(before)]
    return [*words[:-1], f"{words[-1]}…"] if len(read) > LONGEST else words


def _entities(ids: Sequence[int], tokenizer: Tokenizer) -> list[Entity]:
    """Those of a sequence of tags; without a scheme each tag is one of its own."""
    tags = [tokenizer.labels[id_] for id_ in ids]
    if all(name == OUTSIDE or parsed(name) for name in tokenizer.labels):
        return [*entities(tags)]
    return [Entity(tag, i, i + 1) for i, tag in enumerate(tags) if tag != OUTSIDE]


def _marked(words: Sequence[str], own: Sequence[Entity], other: Sequence[Entity]) -> list[Mark]:
    marks: list[Mark] = []
    end = 0
    for entity in [*own, Entity("", len(words), len(words))]:
        if between := "".join(words[end : entity.begin]):
            marks.append(Mark(between, True, None))
        if text := "".join(words[entity.begin : entity.end]):
            marks.append(Mark(text.rstrip(), entity in other, entity.kind))
            if text != text.rstrip():
                marks.append(Mark(text[len(text.rstrip()) :], True, None))
        end = entity.end
    return marks
