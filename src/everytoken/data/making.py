"""What becomes of some records: items, and what is counted of them. No file is read here."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from everytoken.corpora.documents import Document
from everytoken.corpora.long_text import LONG_CHARACTERS
from everytoken.corpora.mix import PART
from everytoken.data import fields as field_kinds
from everytoken.data.cache.packed import Packed
from everytoken.data.counts import Counter, Counts
from everytoken.data.item import Item
from everytoken.data.marked import encoded, written
from everytoken.data.objective import Objective, Windowed
from everytoken.data.references import referenced, windows_referenced
from everytoken.errors import UserError
from everytoken.tokenizer.special import SpecialIds
from everytoken.tokenizer.tokenizer import Tokenizer

PART_ITEMS = 10_000
"""Items that are in memory at a time, of a record that isn't."""

Texts = dict[str, str]
"""Texts of one example, by field."""


class Made(NamedTuple):
    """What was made of some records."""

    items: "Packed | list[tuple[Item, int]]"
    """With the real tokens of each one's example; none after a record that is refused."""
    counter: Counter | None
    """Of all these records only; None if more is made of them."""
    found: int
    """Items, of refused records and later ones too."""
    refused: int | None
    """The number of the first record that is too long, if the objective refuses such."""


class Maker:
    """Makes items of records.

    Args:
        fields: what the task reads of a record.
        split: "train", "val" or "test".
        tokenizer: makes ids of texts.
        objective: makes items of ids.
    """

    def __init__(
        self, fields: Sequence[str], split: str, tokenizer: Tokenizer, objective: Objective
    ) -> None:
        self.fields = fields
        self.split = split
        self.tokenizer = tokenizer
        self.objective = objective

    def is_in_memory(self, chunk: Sequence[Texts]) -> bool:
        """Whether all of some records is, and will be."""
        texts = (record[field] for record in chunk for field in self.fields)
        return all(type(text) is str and len(text) <= LONG_CHARACTERS for text in texts)

    def make(self, chunk: list[Texts], first: int) -> Iterator[Made]:
        """What is made of some records: items part by part, with the last part the counts.

        Args:
            chunk: the records.
            first: the number of the first of them.

        Raises:
            UserError: an id that the tokenizer shouldn't have, or what the objective raises.
        """
        objective, counter = self.objective, Counter(self.tokenizer.special.unk, first)
        counts = counter.counts
        items: list[tuple[Item, int]] = []
        found, refused = 0, None
        has_labels = field_kinds.has_labels(self.fields)
        for texts, record, ids in self._tokenized(chunk, first):
            before = counts.bytes
            values = [texts[field] for field in self.fields]
            counter.add(field_kinds.tokenized(texts, self.fields), ids, values)
            names = field_kinds.labels(texts, self.fields) if has_labels else []
            if has_labels:
                counter.add_labels(names, in_order="tags" in self.fields)
            long = objective.long if objective.is_too_long(record) else None
            if long == "refuse" and refused is None:
                refused = counts.records - 1
            own: Iterable[Item] = ()
            if long not in ("drop", "refuse"):
                own = _items(record, objective)
            if self.split != "train":
                own = self._referenced(own, values, ids, counts.records - 1, counts.bytes - before)
            if type(values[0]) is not str and isinstance(values[0], Document):
                self._count_ends(ids, counter)
            if long is not None:
                counts.too_long += 1
            if long not in (None, "windows"):
                own = [*own]
                kept = [part for item in own for part in item[:3] if part is not None]
                counts.lost += _ordinary(ids, self.tokenizer.special)
                counts.lost -= _ordinary(kept, self.tokenizer.special)
                if label_count := getattr(objective, "label_count", None):
                    counts.lost_labels += len(names) - sum(map(label_count, own))
            made = 0
            for item in own:
                made += 1
                if refused is None:  # afterwards it is only counted
                    plain = item._replace(reference=None) if self.split == "train" else item
                    counts.target_bytes += plain.reference.byte_count if plain.reference else 0
                    items.append((plain, objective.real_count(item)))
                if len(items) >= PART_ITEMS:
                    yield Made(items, None, found + made, refused)
                    items, found = [], -made
            found += made
            if not made and long not in ("drop", "refuse"):
                counts.unlearned += 1
            if PART in texts:
                counts.parts += [0] * (int(texts[PART]) + 1 - len(counts.parts))
                counts.parts[-1] += made
        yield Made(items, counter, found, refused)

    def again(
        self,
        chunk: list[Texts],
        first: int,
        items: Packed | None,
        counts: Counts,
        refused: int | None,
    ) -> Made:
        """What was made of these records before; only what others than they decide is anew."""
        counter = Counter(self.tokenizer.special.unk, first)
        for texts in chunk:
            values = [texts[field] for field in self.fields]
            counter.see(field_kinds.tokenized(texts, self.fields), values)
        counter.counts = counts
        return Made(items or [], counter, 0 if items is None else len(items), refused)

    def _referenced(
        self, items: Iterable[Item], values: list[Any], ids: list[Any], number: int, size: int
    ) -> Iterable[Item]:
        """The items of a record of a held-out split, with their references."""
        given = isinstance(values[0], Document)
        if isinstance(ids[0], Document) and not given:
            return windows_referenced(items, size, len(ids[0]), number, self.objective)
        texts_and_ids = written(ids, self.tokenizer) if given else (values, ids)
        return referenced([*items], *texts_and_ids, number, self.objective, self.tokenizer)

    def _count_ends(self, ids: list[Any], counter: Counter) -> None:
        end = self.tokenizer.special.eos
        for own in (own for own in ids if isinstance(own, Document)):
            counter.add_ends(own.count(end), end)

    def _tokenized(
        self, chunk: list[Texts], number: int
    ) -> Iterator[tuple[Texts, Any, list[list[int]]]]:
        """Texts, record and token ids of each example."""
        vocabulary = len(self.tokenizer)
        for texts, record in zip(chunk, self._records(chunk, number), strict=True):
            ids = [*record.values()] if isinstance(record, dict) else [record.ids]
            largest = max([max(own) for own in ids if type(own) is list and own], default=0)
            if largest >= vocabulary:
                raise UserError(
                    f"the tokenizer gives {self.split} example {number} the id {largest}, but has "
                    f"only {vocabulary} tokens (0 to {vocabulary - 1}): ids out of range can't "
                    "be looked up; choose another tokenizer"
                )
            number += 1
            yield texts, record, ids

    def _records(self, chunk: list[Texts], first: int) -> Iterable[Any]:
        """What the objective makes items of, for each of some examples, `first` the first."""
        if encode := getattr(self.objective, "encode", None):
            return encode(chunk, lambda place: f"{self.split} example {first + place}")
        spills = isinstance(self.objective, Windowed)
        columns = [
            encoded([texts[f] for texts in chunk], self.tokenizer, spills) for f in self.fields
        ]
        return [dict(zip(self.fields, row, strict=True)) for row in zip(*columns, strict=True)]


def _items(record: Any, objective: Objective) -> Iterable[Item]:
    """What an objective makes of a record; of a document, one after the other."""
    text = record.get("text") if isinstance(record, dict) else None
    if type(text) is not list and isinstance(text, Document) and isinstance(objective, Windowed):
        return objective.placed(text)
    return objective.items(record)


def _ordinary(parts: Iterable[Any], special: SpecialIds) -> int:
    """Tokens of texts: those that mark begin (pad, for some) and end aside."""
    marks = (special.pad, special.bos, special.eos)
    return sum(int((~np.isin(part, marks)).sum()) for ids in parts for part in _blocks(ids))


def _blocks(ids: Any) -> Iterator[Any]:
    if isinstance(ids, Document):
        yield from (block for _, block in ids.blocks())
    elif len(ids):
        yield ids
