"""What a split holds, counted while it is tokenized."""

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np

from everytoken.corpora.long_text import LongText
from everytoken.corpora.schemes import OUTSIDE, is_begun

SAMPLED_TEXTS = 1_000
SAMPLED_CHARACTERS = 100_000
"""How many are looked at, at most, to see if they come back as they are."""


@dataclass
class Counts:
    """Counts of one split."""

    records: int = 0
    """Texts, or pairs of texts, of the corpus."""
    bytes: int = 0
    """Length of the texts in UTF-8."""
    tokens: int = 0
    """Tokens of the texts, special tokens aside."""
    unknown: int = 0
    """Those that stand for text which the tokenizer doesn't know."""
    duplicates: int = 0
    """Records whose texts all equal those of an earlier one."""
    too_long: int = 0
    """Records for which the objective's `long` decides."""
    lost: int = 0
    """Tokens of those that are in no item."""
    unlearned: int = 0
    """Records that aren't left out as too long, and of which no item is made all the same."""
    wordless: int = 0
    """Records with a text for which the tokenizer has no token, though it isn't blank."""
    changed: float = 0.0
    """Share of a sample of the answers, or texts, that decode(encode(text)) changes."""
    changed_example: list[str] = field(default_factory=list)
    """One of them, and what comes back."""
    target_bytes: int = 0
    """Length in UTF-8 of what the targets stand for; of held-out splits."""
    gaps: list[int] = field(default_factory=list)
    """Places of blank lines and of what else the source left out, from 0, among all that is stored
    of a held-out split."""
    dropped: dict[str, int] = field(default_factory=dict)
    """What the source left out, by reason; it isn't among the records."""
    dropped_at: dict[str, str] = field(default_factory=dict)
    """Where the first of these are, in words."""
    parts: list[int] = field(default_factory=list)
    """Items of each corpus of a mix, in their order."""
    contradictory: int = 0
    """Records whose texts are those of an earlier one, but not their labels."""
    labels: dict[str, int] = field(default_factory=dict)
    """Names of classes, and how often each is there."""
    lost_labels: int = 0
    """Tags of words that were cut off."""
    begun: int = 0
    """Tags that begin an entity and say so, as B-X does, where none of its kind was before."""
    unbegun: int = 0
    """Tags that continue an entity which isn't there."""
    unbegun_at: str = ""
    """Where the first of these is, in words."""
    ends_inside: int = 0
    """Ends inside of documents whose ids were given, as if several were one."""
    end_id: int = -1
    """The id of an end."""
    checksum: str = ""
    """Of the texts in their order, BLAKE2b in hexadecimal."""


class Counter:
    """Counts records one after the other, in 16 bytes of memory for each.

    Args:
        unknown_id: the token that stands for text which the tokenizer doesn't know; None if it
            knows every text.
    """

    def __init__(self, unknown_id: int | None) -> None:
        self.unknown_id = unknown_id
        self.counts = Counts()
        self.sample: list[str] = []
        """The first texts, of pairs the answers."""
        self._room = SAMPLED_CHARACTERS
        self._hashes = array("q")
        self._text_hashes = array("q")
        self._checksum = blake2b(digest_size=16)

    def add(
        self,
        texts: Sequence[str],
        ids: Sequence[list[int]],
        values: Sequence[str] | None = None,
    ) -> None:
        """Count a record.

        Args:
            texts: what is tokenized of it.
            ids: tokens of each text, or of all together.
            values: of its fields, if they are more than these texts.
        """
        values = texts if values is None else values
        self.counts.records += 1
        for value in values:
            if isinstance(value, LongText):
                self.counts.bytes += value.extent.size
                self._checksum.update(value.extent.size.to_bytes(8, "little"))
                for block in value.blocks():
                    self._checksum.update(block.encode())
                continue
            encoded = value.encode()
            self.counts.bytes += len(encoded) if isinstance(value, str) else 0
            self._checksum.update(len(encoded).to_bytes(8, "little"))
            self._checksum.update(encoded)
        self.counts.tokens += sum(map(len, ids))
        self.counts.wordless += len(ids) == len(texts) and any(
            not own and not text.isspace() for text, own in zip(texts, ids, strict=True) if text
        )
        if self.unknown_id is not None:
            self.counts.unknown += sum(one.count(self.unknown_id) for one in ids)
        self._hashes.append(hash(tuple(values)))
        self._text_hashes.append(hash(tuple(texts)))
        if len(self.sample) < SAMPLED_TEXTS and self._room > 0:
            last: Any = texts[-1]
            if isinstance(last, LongText):
                last = next(last.blocks())
            if isinstance(last, str):
                self.sample.append(last[: self._room])
                self._room -= len(last)

    def add_ends(self, count: int, end_id: int) -> None:
        """Count ends inside of the record that was just added."""
        self.counts.ends_inside += count
        self.counts.end_id = end_id

    def add_labels(self, labels: Sequence[str], *, in_order: bool) -> None:
        """Count names of classes of the record that was just added; of its words, in order."""
        for name in labels:
            self.counts.labels[name] = self.counts.labels.get(name, 0) + 1
        for number, (before, tag) in enumerate(pairwise((OUTSIDE, *labels)), start=1):
            begun = is_begun(tag, before) if in_order else None
            if begun is False and not self.counts.unbegun:
                at = f"{tag} after {before} at word {number} of example {self.counts.records - 1}"
                self.counts.unbegun_at = at
            self.counts.begun += begun is True
            self.counts.unbegun += begun is False

    def finish(self) -> dict[str, Any]:
        """All counts, by name."""
        self.counts.duplicates = len(self._hashes) - len(np.unique(np.array(self._hashes)))
        several = len(np.unique(np.array(self._text_hashes)))
        self.counts.contradictory = len(self._hashes) - self.counts.duplicates - several
        self.counts.checksum = self._checksum.hexdigest()
        return asdict(self.counts)
