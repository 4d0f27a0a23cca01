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


ADDED = (
    *("bytes", "tokens", "unknown", "too_long", "lost", "unlearned", "wordless", "target_bytes"),
    *("lost_labels", "begun", "unbegun", "ends_inside"),
)
"""Counts that are sums over records."""


class Counter:
    """Counts records one after the other, in 16 bytes of memory for each.

    Args:
        unknown_id: the token that stands for text which the tokenizer doesn't know; None if it
            knows every text.
        first: how many records others count before these, whose counter takes this one's counts up
            by `merge`.
    """

    def __init__(self, unknown_id: int | None, first: int | None = None) -> None:
        self.unknown_id = unknown_id
        self.counts = Counts(records=first or 0)
        self.first = first or 0
        self.sample: list[str] = []
        """The first texts, of pairs the answers."""
        self._room = SAMPLED_CHARACTERS
        self._hashes = array("q")
        self._text_hashes = array("q")
        self._checksum = blake2b(digest_size=16)
        self._unsummed: list[bytes | LongText] | None = None if first is None else []

    def __reduce__(self) -> tuple[Any, ...]:
        kept = {name: value for name, value in vars(self).items() if name != "_checksum"}
        parts = [part for part in self._unsummed or () if isinstance(part, bytes)]
        return type(self), (self.unknown_id, self.first), {**kept, "_unsummed": [b"".join(parts)]}

    def merge(self, later: "Counter") -> None:
        """Take up the counts of records that follow."""
        mine, theirs = self.counts, later.counts
        mine.records = theirs.records
        for name in ADDED:
            setattr(mine, name, getattr(mine, name) + getattr(theirs, name))
        for label, number in theirs.labels.items():
            mine.labels[label] = mine.labels.get(label, 0) + number
        mine.parts += [0] * (len(theirs.parts) - len(mine.parts))
        for place, number in enumerate(theirs.parts):
            mine.parts[place] += number
        mine.unbegun_at = mine.unbegun_at or theirs.unbegun_at
        mine.end_id = max(mine.end_id, theirs.end_id)
        self._hashes += later._hashes
        self._text_hashes += later._text_hashes
        for part in later._unsummed or ():
            if isinstance(part, LongText):
                self._sum_long(part)
            else:
                self._checksum.update(part)
        for text in later.sample:
            self._keep(text)

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
        self.see(texts, texts if values is None else values)
        sizes = [*map(len, ids)]
        self.counts.tokens += sum(sizes)
        if 0 in sizes and len(ids) == len(texts):
            pairs = zip(texts, sizes, strict=True)
            self.counts.wordless += any(t and not size and not t.isspace() for t, size in pairs)
        if self.unknown_id is not None:
            self.counts.unknown += sum(one.count(self.unknown_id) for one in ids)

    def see(self, texts: Sequence[str], values: Sequence[str]) -> None:
        """Count what is known of a record without its tokens; arguments as of `add`."""
        sum_up = self._checksum.update if self._unsummed is None else self._unsummed.append
        self.counts.records += 1
        for value in values:
            if type(value) is not str and isinstance(value, LongText):
                self.counts.bytes += value.extent.size
                sum_up(value.extent.size.to_bytes(8, "little"))
                self._sum_long(value)
                continue
            encoded = value.encode()
            self.counts.bytes += len(encoded) if isinstance(value, str) else 0
            sum_up(len(encoded).to_bytes(8, "little"))
            sum_up(encoded)
        self._hashes.append(own := hash(tuple(values)))
        same = len(values) == len(texts) == 1 and values[0] is texts[0]
        self._text_hashes.append(own if same else hash(tuple(texts)))
        if self._room > 0:
            self._keep(texts[-1])

    def _sum_long(self, text: LongText) -> None:
        if self._unsummed is not None:
            self._unsummed.append(text)
            return
        for block in text.blocks():
            self._checksum.update(block.encode())

    def _keep(self, last: Any) -> None:
        if len(self.sample) < SAMPLED_TEXTS and self._room > 0:
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
        self.counts.duplicates = len(self._hashes) - _different(self._hashes)
        several = _different(self._text_hashes)
        self.counts.contradictory = len(self._hashes) - self.counts.duplicates - several
        self.counts.checksum = self._checksum.hexdigest()
        return asdict(self.counts)


def _different(hashes: "array[int]") -> int:
    """How many different ones there are; sorts them where they are, for they may be many."""
    found = np.frombuffer(hashes, np.int64)
    found.sort()
    return len(found) and 1 + int(np.count_nonzero(found[1:] != found[:-1]))
