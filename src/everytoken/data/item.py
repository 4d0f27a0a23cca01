"""What a record of the corpus becomes before inputs and targets are made of it."""

from typing import NamedTuple

import numpy as np

from everytoken.batch import IGNORE_INDEX
from everytoken.corpora.documents import TokenFile
from everytoken.data.collate import Example, Ids


class Reference(NamedTuple):
    """What evaluation compares an item with."""

    record: int
    """Which example of its split it is of, as the corpus gives them, from 0."""
    prompt_tokens: int
    """Inputs from which generation starts."""
    answer_tokens: int
    """Targets from there on, the end included."""
    byte_count: int
    """UTF-8 bytes of text that the targets stand for; of a text in windows, all with the first."""
    text: str | None = None
    """The answer as the corpus has it; None if no text of the corpus is the answer."""

    @classmethod
    def of(cls, example: Example, record: int = 0) -> "Reference":
        """As far as an example says it: generation starts where its first target stands."""
        targets = np.flatnonzero(example.labels != IGNORE_INDEX)
        first = int(targets[0]) if len(targets) else 0
        return cls(record, first + 1, len(targets), 0)


class Place(NamedTuple):
    """Where the ids of an item lie in a file, and what stands beside them."""

    file: TokenFile
    begin: int
    """The first that is read, in ids from the begin of the file."""
    own: int
    """The first of `ids`; those before it are the context."""
    end: int
    head: int = -1
    """The mark before them, or -1."""
    tail: int = -1
    """The mark after them, or -1."""


class Item(NamedTuple):
    """Token ids of one sequence, special tokens included, before inputs and targets are made."""

    ids: Ids
    source_ids: Ids | None = None
    context_ids: Ids | None = None
    """What stands before `ids` and is read only: another item predicts it."""
    reference: Reference | None = None
    """Of a held-out split; objectives needn't give it, `Corpus` does."""
    labels: Ids | None = None
    """(len(ids),) what is learned at each id, or IGNORE_INDEX; None if the objective knows it."""
    classes: Ids | None = None
    """(k,) the classes that all of it is of; None if it has none to be told."""
    place: Place | None = None
    """Where `ids` and `context_ids` are, if it is in a file of ids."""
