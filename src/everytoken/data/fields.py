"""What the fields of an example hold: a corpus gives each as one text, some of them in JSON.

So whatever an example consists of, it can be hashed, compared, counted and cut off as texts are.
Of a field that isn't listed here the text is what it holds.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple


class Field(NamedTuple):
    """How a field is read."""

    texts: Callable[[str], list[str]]
    """What of it is tokenized."""
    labels: Callable[[str], list[str]]
    """Names of classes in it."""


def _nothing(value: str) -> list[str]:
    return []


def _itself(value: str) -> list[str]:
    return [value]


def _contents(value: str) -> list[str]:
    return [message["content"] for message in json.loads(value)]


TEXT = Field(_itself, _nothing)

FIELDS = {
    "text": TEXT,
    "second": TEXT,  # of two texts that have one label
    "source": TEXT,
    "target": TEXT,
    "messages": Field(_contents, _nothing),  # of a conversation: [{"role": …, "content": …}, …]
    "words": Field(json.loads, _nothing),  # of a text: ["They", "met", …]
    "tags": Field(_nothing, json.loads),  # of these words: ["O", "O", …]
    "labels": Field(_nothing, json.loads),  # of a text: ["sports"]
}


def packed(value: object) -> str:
    """A value as the text of a field: equal values give equal texts."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def tokenized(texts: Mapping[str, str], fields: Iterable[str]) -> list[str]:
    """What is tokenized of an example, field by field."""
    return [text for f in fields for text in FIELDS.get(f, TEXT).texts(texts[f])]


def labels(texts: Mapping[str, str], fields: Iterable[str]) -> list[str]:
    """Names of classes in an example."""
    return [label for f in fields for label in FIELDS.get(f, TEXT).labels(texts[f])]


def has_labels(fields: Iterable[str]) -> bool:
    """True if a field holds names of classes."""
    return any(FIELDS.get(f, TEXT).labels is not _nothing for f in fields)
