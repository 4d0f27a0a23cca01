"""Checks of tags, before any model: each stands on the first token of its word, none is lost."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice

from everytoken.audit.check import Check, Finding
from everytoken.audit.subject import EXAMPLES, Subject
from everytoken.batch import IGNORE_INDEX
from everytoken.data.fields import joined
from everytoken.data.item import Item
from everytoken.data.objective import ExampleKey
from everytoken.tokenizer.placed import Placed, encode_with_offsets


def tags(subject: Subject) -> Finding:
    """Share of words whose tag stands elsewhere, is another's, or is lost.

    In training a word's other tokens may have a tag too, if the objective says so.
    """
    if "tags" not in subject.data.fields:
        return Finding(0.0, note="this task has no tags of words", applies=False)
    objective = subject.data.objective
    texts = [*islice(subject.data.source.examples("train"), EXAMPLES)]
    words = [json.loads(text["words"]) for text in texts]
    tokens = encode_with_offsets(subject.tokenizer, [*map(joined, words)])
    records = objective.encode(texts, lambda i: f"train example {i}")  # pyright: ignore
    wrong, note, count = 0, "", sum(map(len, words))
    for text, own, placed, record in zip(texts, words, tokens, records, strict=True):
        long = objective.long if objective.is_too_long(record) else None
        if long in ("drop", "refuse"):
            continue
        wanted = dict(zip(_first(own, placed), json.loads(text["tags"]), strict=True))
        for held_out in (True, False):
            found = _learned(subject, objective.items(record), held_out)
            for place, tag in wanted.items():
                learned = found.pop(place, None)
                if learned != tag and not (learned is None and long):
                    wrong += 1
                    note = note or f"{_shown(own, placed, place)} has {learned}, not {tag}"
            if found and (held_out or getattr(objective, "label", "all") == "first"):
                wrong += len(found)
                place = min(found)
                note = note or f"{_shown(own, placed, place)}, begins no word, and has a tag"
    return Finding(wrong / max(1, count), 0.0, note)


def _learned(subject: Subject, items: Sequence[Item], held_out: bool) -> dict[int, str]:
    """Tags by the place where they stand, in evaluation or in training."""
    found: dict[int, str] = {}
    for item in items:
        kept = item if held_out else item._replace(reference=None)
        labels = subject.data.objective.example(kept, ExampleKey(0, 0, 0)).labels.tolist()
        names = subject.tokenizer.targets
        found |= {i: names.name(id_) for i, id_ in enumerate(labels) if id_ != IGNORE_INDEX}
    return found


def _shown(words: Sequence[str], placed: Sequence[Placed], place: int) -> str:
    text = f"{joined(words)}\N{SYMBOL FOR END OF TEXT}"
    part = text[placed[place].begin : placed[place].end] if place < len(placed) else text[-1]
    return f"token {place + 1}, {part!r} of {joined(words)!r:.60}"


def _first(words: Sequence[str], placed: Sequence[Placed]) -> Iterator[int]:
    """The first token that has a character of each word."""
    begin = 0
    for word in words:
        own = range(begin, begin + len(word))
        yield next(i for i, token in enumerate(placed) if {*own} & {*range(token.begin, token.end)})
        begin = own.stop + 1


CHECKS = (
    Check(
        "tags",
        "a word's tag stands on its first token, and none is lost",
        "the objective's `encode` and `items`: offsets of tokens, and where a text is cut off",
        tags,
    ),
)
