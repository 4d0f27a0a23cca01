"""A corpus of texts, read as a stream, checked, and tokenized chunk by chunk."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from everytoken.errors import UserError
from everytoken.objective import Item, Objective
from everytoken.tokenizer import Tokenizer

CHUNK_EXAMPLES = 10_000
"""Most examples that are tokenized at a time."""

CHUNK_CHARACTERS = 10_000_000
"""The same, in characters of their texts."""

Texts = dict[str, str]
"""Texts of one example, by field."""


class Source(Protocol):
    """A corpus of texts. This is what one's own data implements.

    It may also have `fingerprint() -> str`, which must change whenever the texts may have changed
    for another reason than the class's arguments and code (a file's size and time, say). Only then
    are tokenized texts kept on disk, see `cache`.
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
        self.fields = list(fields)
        self.limit_examples = limit_examples
        self._read: dict[str, Iterable[Texts]] = {}

    def records(self, split: str) -> Iterator[Texts]:
        """The examples of a split, from the first.

        Raises:
            UserError: there are none, or one has not all fields; when it is reached.
        """
        examples = self._read.pop(split, None)
        if examples is None:
            examples = self.source.examples(split)
        if iter(examples) is not examples:  # a list can be read again; an iterator can't
            self._read[split] = examples
        count = 0
        for record in examples:
            if count == self.limit_examples:
                break
            if missing := [field for field in self.fields if field not in record]:
                raise UserError(
                    f"{split} example {count} has {', '.join(record)} but the task needs "
                    f"{', '.join(missing)} too: choose another task or data"
                )
            count += 1
            yield record
        if not count:
            raise UserError(f"the {split} split is empty: give it examples (see data.corpus)")

    def texts(self, split: str, check: Iterable[str] = ()) -> Iterator[str]:
        """All texts of a split, after a look at the first example of each split to check.

        Raises:
            UserError: as `records` does. So what is missing is told before hours of work.
        """
        for other in check:
            next(self.records(other))
        for record in self.records(split):
            yield from (record[field] for field in self.fields)

    def items(
        self, split: str, tokenizer: Tokenizer, objective: Objective
    ) -> Iterator[tuple[Item, int]]:
        """The items of a split and the real tokens of their examples.

        Raises:
            UserError: as `records` does; or the objective makes no item of any example.
        """
        count = 0
        for chunk in self._chunks(split):
            columns = [tokenizer.encode([record[f] for record in chunk]) for f in self.fields]
            for ids in zip(*columns, strict=True):
                for item in objective.items(dict(zip(self.fields, ids, strict=True))):
                    count += 1
                    yield item, objective.real_count(item)
        if not count:
            raise UserError(
                f"no {split} example has anything to learn from: task.objective "
                f"({type(objective).__name__}) cuts no items from them"
            )

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
