"""What the fields of an example hold: a corpus gives each as one text, some of them in JSON
(`corpora.columns.packed`).

So whatever an example consists of, it can be hashed, compared, counted and cut off as texts are.
Of a field that isn't listed here the text is what it holds.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from everytoken.corpora.conversations import Conversation
from everytoken.errors import UserError


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


def _joined(value: str) -> list[str]:
    return [joined(json.loads(value))]


def _said(value: str) -> list[str]:
    """Who speaks, and what is said; a message of calls only says nothing."""
    try:
        messages = Conversation.unpacked(value).messages
    except ValueError as error:
        raise UserError(f"a conversation {error}: {value:.60}") from error
    return [text for m in messages for text in (f"{m['role']}\n", m.get("content") or "")]


TEXT = Field(_itself, _nothing)

FIELDS = {
    "text": TEXT,
    "second": TEXT,  # of two texts that have one label
    "source": TEXT,
    "target": TEXT,
    "messages": Field(_said, _nothing),  # of a conversation: [{"role": …, "content": …}, …]
    "words": Field(_joined, _nothing),  # of a text: ["They", "met", …]
    "tags": Field(_nothing, json.loads),  # of these words: ["O", "O", …]
    "labels": Field(_nothing, json.loads),  # of a text: ["sports"]
}


def joined(words: Iterable[str]) -> str:
    """The text of some words, as it is tokenized."""
    return " ".join(words)


def tokenized(texts: Mapping[str, str], fields: Iterable[str]) -> list[str]:
    """What is tokenized of an example, field by field."""
    return [text for f in fields for text in FIELDS.get(f, TEXT).texts(texts[f])]


def with_second(fields: Iterable[str], offered: Iterable[str]) -> list[str]:
    """The fields that a task reads, with a second text where a corpus of classes has one."""
    fields = [*fields]
    if "labels" in fields and "second" in offered and "second" not in fields:
        fields.insert(fields.index("labels"), "second")
    return fields


def labels(texts: Mapping[str, str], fields: Iterable[str]) -> list[str]:
    """Names of classes in an example."""
    return [label for f in fields for label in FIELDS.get(f, TEXT).labels(texts[f])]


def has_labels(fields: Iterable[str]) -> bool:
    """True if a field holds names of classes."""
    return any(FIELDS.get(f, TEXT).labels is not _nothing for f in fields)
