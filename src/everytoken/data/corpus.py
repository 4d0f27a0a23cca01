"""A corpus of texts, read as a stream, checked, and tokenized chunk by chunk."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Protocol

from everytoken.corpora.documents import Document
from everytoken.corpora.long_text import LongText
from everytoken.corpora.mix import PART
from everytoken.corpora.whereabouts import located, whereabouts
from everytoken.data import fields as field_kinds
from everytoken.data.cache.packed import Packed
from everytoken.data.cache.parts import Parts
from everytoken.data.counts import Counter
from everytoken.data.item import Item
from everytoken.data.making import Maker, Texts
from everytoken.data.mistakes import mistake_of, place_of
from everytoken.data.objective import Objective
from everytoken.data.side_by_side import side_by_side
from everytoken.errors import RunError, UserError, one_line
from everytoken.tokenizer.tokenizer import Tokenizer

CHUNK_EXAMPLES = 10_000
"""Most examples that are tokenized at a time."""

CHUNK_CHARACTERS = 1_000_000
"""The same, in characters of their texts."""


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
        count, fields = 0, {*self.fields}
        for record in self._given(split):
            if count == self.limit_examples and PART not in record:
                break
            if type(record) is not dict and not isinstance(record, Mapping):
                raise UserError(
                    f"{split} example {count} of data.corpus is {record!r:.40}: it must be a dict "
                    f"of texts by field, such as {dict.fromkeys(self.fields, '…')}"
                )
            if not fields <= record.keys():
                missing = [field for field in self.fields if field not in record]
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
        """The items of a split and the real tokens of their examples, see `made`."""
        for some in self.made(split, tokenizer, objective, counter):
            yield from some.items() if isinstance(some, Packed) else some

    def made(
        self,
        split: str,
        tokenizer: Tokenizer,
        objective: Objective,
        counter: Counter,
        processes: int = 1,
        parts: Parts | None = None,
    ) -> Iterator[Packed | list[tuple[Item, int]]]:
        """The items of a split and the real tokens of their examples, many at a time.

        Args:
            split: "train", "val" or "test".
            tokenizer: makes ids of texts.
            objective: makes items of ids.
            counter: counts what is read.
            processes: how many tokenize, if there is much.
            parts: where that is kept until all is made, if there is much.

        Raises:
            UserError: as `records` does; an id that the tokenizer shouldn't have; an example is too
                long and the objective refuses such; or there is no item of any example.
        """
        counts, found = counter.counts, 0
        refused: int | None = None
        maker = Maker(self.fields, split, tokenizer, objective)
        try:
            for made in side_by_side(maker, self._chunks(split), processes, parts):
                if made.counter is not None:
                    counter.merge(made.counter)
                found += made.found
                if refused is None and made.items:  # afterwards it is only counted
                    yield made.items
                refused = made.refused if refused is None else refused
        except UserError as error:
            raise located(error, self.source, split) from error
        counts.changed, example = tokenizer.round_trip(counter.sample)
        counts.changed_example = list(example or ())
        counts.dropped = dict(getattr(self.source, "dropped", {}).get(split, {}))
        counts.dropped_at = dict(getattr(self.source, "dropped_at", {}).get(split, {}))
        counts.gaps = list(getattr(self.source, "gaps", {}).get(split, []))
        limit = f"longer than task.objective.{objective.limit} allows"
        if refused is not None:
            cut = getattr(objective, "cut", "truncate")
            where = whereabouts(self.source, split, refused)
            first = f"example {refused}" + (f" ({where})" if where else "")
            raise UserError(
                f"{counts.too_long} of {counts.records} {split} examples are {limit}, {first} "
                f"first: raise it, or set task.objective.long={cut} or drop"
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
