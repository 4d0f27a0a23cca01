"""A corpus of texts, read as a stream, checked, and tokenized chunk by chunk."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, Protocol

import numpy as np

from everytoken.corpora.documents import Document
from everytoken.corpora.long_text import LongText
from everytoken.corpora.mix import PART
from everytoken.data import fields as field_kinds
from everytoken.data.counts import Counter
from everytoken.data.item import Item
from everytoken.data.marked import encoded, written
from everytoken.data.mistakes import mistake_of, place_of
from everytoken.data.objective import Objective, Windowed
from everytoken.data.references import referenced, windows_referenced
from everytoken.errors import RunError, UserError, one_line
from everytoken.tokenizer.special import SpecialIds
from everytoken.tokenizer.tokenizer import Tokenizer

CHUNK_EXAMPLES = 10_000
"""Most examples that are tokenized at a time."""

CHUNK_CHARACTERS = 1_000_000
"""The same, in characters of their texts."""

Texts = dict[str, str]
"""Texts of one example, by field."""


class Source(Protocol):
    """A corpus of texts. This is what one's own data implements.

    It may also have `fingerprint() -> str`, which must change whenever the texts may have changed
    for another reason than the class's arguments and code (a file's size and time, say). Only then
    are tokenized texts kept on disk, see `cache`.

    And it may have `dropped: dict[str, dict[str, int]]`: how many examples it left out of each
    split, by reason, complete once the split was read. They are listed in the data report, with
    where the first of them are, in words, if `dropped_at` says so in the same way. And
    `gaps: dict[str, list[int]]`: the places of those of a held-out split, from 0, among all that it
    has stored. So what evaluation writes has a line for each that is stored.

    Its texts may be `Document`s: ids that lie in files. If all are, it has `has_ids = True`.
    """

    fields: tuple[str, ...]
    """Names of the texts of an example: ("source", "target") for pairs, ("text",) otherwise."""

    def examples(self, split: str) -> Iterable[Texts]:
        """Texts by field, for "train", "val" or "test": the same at every call."""
        ...


class Corpus:
    """What a task reads of a source.

    Args:
        source: the texts.
        fields: names of the texts that the task needs of an example.
        limit_examples: read the first this many of each split only; None for all.
    """

    def __init__(self, source: Source, fields: Sequence[str], limit_examples: int | None) -> None:
        self.source = source
        self.fields = field_kinds.with_second(fields, getattr(source, "fields", ()))
        self.limit_examples = limit_examples
        self._read: dict[str, Iterable[Texts]] = {}

    def records(self, split: str) -> Iterator[Texts]:
        """The examples of a split, from the first.

        Raises:
            UserError: there are none, or one has not all fields, or something else than text in
                one; or the source raises an error; when it is reached.
        """
        count = 0
        for record in self._given(split):
            if count == self.limit_examples and PART not in record:
                break
            if not isinstance(record, Mapping):
                raise UserError(
                    f"{split} example {count} of data.corpus is {record!r:.40}: it must be a dict "
                    f"of texts by field, such as {dict.fromkeys(self.fields, '…')}"
                )
            if missing := [field for field in self.fields if field not in record]:
                raise UserError(
                    f"{split} example {count} has {', '.join(map(str, record))} but the task needs "
                    f"{', '.join(missing)} too: choose another task or data"
                )
            for field in self.fields:
                if mistake := mistake_of(record[field]):
                    raise UserError(f"{field} of {split} example {count} {mistake}")
            count += 1
            yield record
        if not count:
            raise UserError(f"the {split} split is empty: give it examples (see data.corpus)")

    def _given(self, split: str) -> Iterator[Texts]:
        """What the source gives, one after the other; what it raises is told as its mistake."""
        try:
            examples = self._read.pop(split, None)
            if examples is None:
                examples = self.source.examples(split)
                if self.limit_examples is not None and hasattr(examples, "first"):
                    examples = examples.first(self.limit_examples)  # pyright: ignore
            if iter(examples) is not examples:  # a list can be read again; an iterator can't
                self._read[split] = examples
            yield from examples
        except (UserError, RunError, MemoryError):
            raise
        except Exception as error:
            name = type(self.source).__name__
            raise UserError(
                f"data.corpus: {name}.examples({split!r}) raised {type(error).__name__}: "
                f"{one_line(error, 200)}{place_of(error, type(self.source))}"
            ) from error

    def texts(self, split: str, check: Iterable[str] = ()) -> Iterator[str]:
        """All texts of a split, after a look at the first example of each split to check.

        Raises:
            UserError: as `records` does. So what is missing is reported before hours of work.
        """
        for other in check:
            next(self.records(other))
        for record in self.records(split):
            found = field_kinds.tokenized(record, self.fields)
            if any(isinstance(text, Document) for text in found):
                raise UserError(
                    "data=tokens holds ids already, and no tokenizer can be learned from them: "
                    "give the one that they are of, tokenizer=pretrained tokenizer.path=FOLDER"
                )
            for text in found:
                yield from text.blocks() if isinstance(text, LongText) else [text]

    def labels(self, split: str) -> list[str]:
        """All names of classes in a split, sorted, numbers by their size; without a limit, or a few
        examples to try something with would have other classes.

        Raises:
            UserError: as `records` does.
        """
        records = Corpus(self.source, self.fields, None).records(split)
        found = {name for record in records for name in field_kinds.labels(record, self.fields)}
        if all(name.isdecimal() for name in found):
            return sorted(found, key=int)
        return sorted(found)

    def size(self, split: str) -> int | None:
        """How many records there will be, if that is known without reading them again."""
        examples = self._read.get(split)
        if not isinstance(examples, Sized):
            return None
        count = len(examples)
        return count if self.limit_examples is None else min(count, self.limit_examples)

    def items(
        self, split: str, tokenizer: Tokenizer, objective: Objective, counter: Counter
    ) -> Iterator[tuple[Item, int]]:
        """The items of a split and the real tokens of their examples.

        Args:
            split: "train", "val" or "test".
            tokenizer: makes ids of texts.
            objective: makes items of ids.
            counter: counts what is read.

        Raises:
            UserError: as `records` does; an id that the tokenizer shouldn't have; an example is too
                long and the objective refuses such; or there is no item of any example.
        """
        counts, found = counter.counts, 0
        refused: int | None = None
        for texts, record, ids in self._tokenized(split, tokenizer, objective):
            values = [texts[field] for field in self.fields]
            bytes_before = counts.bytes
            counter.add(field_kinds.tokenized(texts, self.fields), ids, values)
            given = [value for value in values if isinstance(value, Document)]
            for own in (own for own in ids if given and isinstance(own, Document)):
                counter.add_ends(own.count(tokenizer.special.eos), tokenizer.special.eos)
            names = field_kinds.labels(texts, self.fields)
            counter.add_labels(names, in_order="tags" in self.fields)
            long = objective.long if objective.is_too_long(record) else None
            if long == "refuse" and refused is None:
                refused = counts.records - 1
            items: Iterable[Item] = ()
            if long not in ("drop", "refuse"):
                items = _items(record, objective)
            number = counts.records - 1
            if split != "train" and isinstance(ids[0], Document) and not given:
                size = counts.bytes - bytes_before
                items = windows_referenced(items, size, len(ids[0]), number, objective)
            elif split != "train":
                texts_and_ids = written(ids, tokenizer) if given else (values, ids)
                items = referenced([*items], *texts_and_ids, number, objective, tokenizer)
            if long is not None:
                counts.too_long += 1
            if long not in (None, "windows"):
                items = [*items]
                kept = [part for item in items for part in item[:3] if part is not None]
                counts.lost += _ordinary(ids, tokenizer.special)
                counts.lost -= _ordinary(kept, tokenizer.special)
                if label_count := getattr(objective, "label_count", None):
                    counts.lost_labels += len(names) - sum(map(label_count, items))
            made = 0
            for item in items:
                made += 1
                if refused is None:  # afterwards it is only counted
                    plain = item._replace(reference=None) if split == "train" else item
                    counts.target_bytes += plain.reference.byte_count if plain.reference else 0
                    yield plain, objective.real_count(item)
            found += made
            if not made and long not in ("drop", "refuse"):
                counts.unlearned += 1
            if PART in texts:
                counts.parts += [0] * (int(texts[PART]) + 1 - len(counts.parts))
                counts.parts[-1] += made
        counts.changed, example = tokenizer.round_trip(counter.sample)
        counts.changed_example = list(example or ())
        counts.dropped = dict(getattr(self.source, "dropped", {}).get(split, {}))
        counts.dropped_at = dict(getattr(self.source, "dropped_at", {}).get(split, {}))
        counts.gaps = list(getattr(self.source, "gaps", {}).get(split, []))
        limit = f"longer than task.objective.{objective.limit} allows"
        if refused is not None:
            cut = getattr(objective, "cut", "truncate")
            raise UserError(
                f"{counts.too_long} of {counts.records} {split} examples are {limit}, example "
                f"{refused} first: raise it, or set task.objective.long={cut} or drop"
            )
        if not found and counts.too_long:
            raise UserError(
                f"no {split} example is left: {counts.too_long} of {counts.records} are {limit}, "
                f"and task.objective.long={objective.long}"
            )
        if not found:
            raise UserError(
                f"no {split} example has anything to learn from: task.objective "
                f"({type(objective).__name__}) cuts no items from them"
            )

    def _tokenized(
        self, split: str, tokenizer: Tokenizer, objective: Objective
    ) -> Iterator[tuple[Texts, Any, list[list[int]]]]:
        """Texts, record and token ids of each example."""
        number, vocabulary = 0, len(tokenizer)
        for chunk in self._chunks(split):
            for texts, record in zip(
                chunk, self._records(chunk, split, number, tokenizer, objective), strict=True
            ):
                ids = [*record.values()] if isinstance(record, dict) else [record.ids]
                lists = [own for own in ids if isinstance(own, list)]
                largest = max((max(own, default=0) for own in lists), default=0)
                if largest >= vocabulary:
                    raise UserError(
                        f"the tokenizer gives {split} example {number} the id {largest}, but has "
                        f"only {vocabulary} tokens (0 to {vocabulary - 1}): ids out of range can't "
                        "be looked up; choose another tokenizer"
                    )
                number += 1
                yield texts, record, ids

    def _records(
        self,
        chunk: list[Texts],
        split: str,
        first: int,
        tokenizer: Tokenizer,
        objective: Objective,
    ) -> Iterable[Any]:
        """What the objective makes items of, for each of some examples, `first` the first."""
        if encode := getattr(objective, "encode", None):
            return encode(chunk, lambda place: f"{split} example {first + place}")
        spills = isinstance(objective, Windowed)
        columns = [encoded([texts[f] for texts in chunk], tokenizer, spills) for f in self.fields]
        return [dict(zip(self.fields, row, strict=True)) for row in zip(*columns, strict=True)]

    def _chunks(self, split: str) -> Iterator[list[Texts]]:
        chunk: list[Texts] = []
        characters = 0
        for record in self.records(split):
            chunk.append(record)
            characters += sum(len(record[field]) for field in self.fields)
            if len(chunk) >= CHUNK_EXAMPLES or characters >= CHUNK_CHARACTERS:
                yield chunk
                chunk, characters = [], 0
        if chunk:
            yield chunk


def _items(record: Any, objective: Objective) -> Iterable[Item]:
    """What an objective makes of a record; of a document, one after the other."""
    text = record.get("text") if isinstance(record, dict) else None
    if isinstance(text, Document) and isinstance(objective, Windowed):
        return objective.placed(text)
    return objective.items(record)


def _ordinary(parts: Iterable[Any], special: SpecialIds) -> int:
    """Tokens of texts: those that mark begin (pad, for some) and end aside."""
    marks = (special.pad, special.bos, special.eos)
    return sum(int((~np.isin(block, marks)).sum()) for part in parts for block in _blocks(part))


def _blocks(ids: Any) -> Iterator[Any]:
    if isinstance(ids, Document):
        yield from (block for _, block in ids.blocks())
    elif len(ids):
        yield ids
