"""Sequence classification: text → its class, or any of several, learned at the first position."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everytoken.batch import IGNORE_INDEX
from everytoken.data.collate import Example, Ids
from everytoken.data.fields import labels
from everytoken.data.item import Item, Reference
from everytoken.data.objective import ExampleKey, Long
from everytoken.data.question import Question
from everytoken.errors import UserError
from everytoken.tokenizer.special import SpecialIds
from everytoken.tokenizer.tokenizer import Tokenizer

SHOWN = 8
"""Names of classes that a message lists."""


class Labelled(NamedTuple):
    """A text, or two, and its classes."""

    texts: list[list[int]]
    """Tokens of each text."""
    classes: list[int]
    """One; or any number of them, in their order."""

    @property
    def ids(self) -> list[int]:
        """All of its tokens."""
        return [token for text in self.texts for token in text]


class SequenceClassification:
    """Tell the class of a text, or of two, from all of it.

    Args:
        special: ids of the special tokens.
        vocabulary: V.
        tokenizer: knows the names of the classes.
        max_tokens: most positions of an example.
        long: "truncate", "drop" or "refuse" examples of more. Of two texts the longer is truncated.
        second: where an example has a second text; None if it has one text.
    """

    has_source = False
    has_several = False
    """True if a text may be of several classes."""
    limit = "max_tokens"

    def __init__(
        self,
        special: SpecialIds,
        vocabulary: int,
        tokenizer: Tokenizer,
        max_tokens: int,
        long: Long,
        second: str | None = None,
    ) -> None:
        self.special = special
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.long: Long = long
        self.second = second
        self.numbers = {name: id_ for id_, name in enumerate(tokenizer.labels)}

    def encode(
        self, examples: Sequence[Mapping[str, str]], place: Callable[[int], str]
    ) -> Iterator[Labelled]:
        """Tokens of the texts, and the class of each example.

        Raises:
            UserError: an example that isn't of one class, or of one that training hasn't; a second
                text that isn't there, or that nothing reads.
        """
        if examples and ("second" in examples[0]) != bool(self.second):
            raise UserError(
                f"{place(0)} has no second text, which task.objective.second says: name its column "
                "by data.second"
                if self.second
                else f"{place(0)} has a second text, and task.objective.second=null reads none: "
                "set task.objective.second=second, or leave that text out"
            )
        fields = ["text", "second"] if self.second else ["text"]
        columns = [self.tokenizer.encode([texts[f] for texts in examples]) for f in fields]
        for i, ids in enumerate(zip(*columns, strict=True)):
            names = labels(examples[i], ["labels"])
            self._check_count(names, place(i))
            yield Labelled([*ids], sorted(self._number(name, place(i)) for name in names))

    def _check_count(self, names: list[str], place: str) -> None:
        if len(names) != 1:
            raise UserError(
                f"{place} has {len(names)} labels ({', '.join(names)}), and each text must have "
                "one: task=multi_label_classification learns several, or none"
            )

    def _number(self, name: str, place: str) -> int:
        if name not in self.numbers:
            known = ", ".join([*self.numbers][:SHOWN]) + (
                ", …" if len(self.numbers) > SHOWN else ""
            )
            raise UserError(
                f"{place} has the label {name!r}, and no training example has it ({known}): "
                "give training some, or leave the example out"
            )
        return self.numbers[name]

    def is_too_long(self, record: Labelled) -> bool:
        """True if the texts, a begin, and an end after each don't fit in."""
        return len(record.ids) > self._room(len(record.texts))

    def items(self, record: Labelled) -> list[Item]:
        """One item."""
        texts = record.texts
        if self.long == "truncate":
            texts = shortened(texts, self._room(len(texts)))
        ids = self._joined(texts)
        names = ", ".join(self.tokenizer.labels[id_] for id_ in record.classes)
        classes = np.array(record.classes, dtype=np.int32)
        return [Item(ids, classes=classes, reference=Reference(0, 1, 1, 0, names))]

    def real_count(self, item: Item) -> int:
        """All tokens."""
        return len(item.ids)

    def example(self, item: Item, key: ExampleKey) -> Example:
        """Inputs, and the class at the first of them."""
        assert item.classes is not None
        return self._example(item.ids, item.classes)

    def _example(self, ids: Ids, classes: Ids) -> Example:
        targets = np.full_like(ids, IGNORE_INDEX)
        targets[0] = classes[0]
        return Example(ids, targets)

    def prompt(self, ids: list[int]) -> Example:
        """A text as it is read; its first position is to be told the class of."""
        return self._asked([ids])

    def question(self, line: str, place: str) -> Question:
        """A line, the two texts with a tab between if there are two; the answer is the class.

        Raises:
            UserError: one text, and there should be two.
        """
        parts = line.split("\t", 1) if self.second else [line]
        if self.second and len(parts) < 2:
            raise UserError(f"{place} must be two texts with a tab between, as in training")
        texts = self.tokenizer.encode(parts)
        if self.long == "truncate":
            texts = shortened(texts, self._room(len(texts)))
        example = self._asked(texts)
        parts = (example.input_ids, example.labels)
        return Question(*parts, classes=example.classes, tell=self._told)

    def _told(self, probabilities: NDArray[np.floating]) -> str:
        """The most likely class, and how likely it is."""
        [row] = probabilities
        return f"{self.tokenizer.targets.name(int(row.argmax()))}\t{row.max():.4f}"

    def _room(self, texts: int) -> int:
        return self.max_tokens - 1 - texts

    def _joined(self, texts: Iterable[list[int]]) -> np.ndarray:
        parts = [token for text in texts for token in (*text, self.special.eos)]
        return np.array([self.special.bos, *parts], dtype=np.int32)

    def _asked(self, texts: list[list[int]]) -> Example:
        return self._example(self._joined(texts), np.array([0]))


class MultiLabelClassification(SequenceClassification):
    """Tell which classes a text, or two, is of: any number of them, each by itself.

    Args:
        special, vocabulary, tokenizer, max_tokens, long, second: see `SequenceClassification`.
        threshold: probability above which a class is told.
    """

    has_several = True

    drawn = ("threshold",)

    def __init__(
        self,
        special: SpecialIds,
        vocabulary: int,
        tokenizer: Tokenizer,
        max_tokens: int,
        long: Long,
        second: str | None = None,
        *,
        threshold: float,
    ) -> None:
        super().__init__(special, vocabulary, tokenizer, max_tokens, long, second)
        self.threshold = threshold

    def _check_count(self, names: list[str], place: str) -> None:
        pass  # also none

    def _example(self, ids: Ids, classes: Ids) -> Example:
        targets = np.full_like(ids, IGNORE_INDEX)
        targets[0] = 0  # that there is one; which, `classes` say
        several = np.zeros(len(self.numbers), dtype=np.int64)
        several[classes] = 1
        return Example(ids, targets, classes=several)

    def _told(self, probabilities: NDArray[np.floating]) -> str:
        """The classes above the threshold, the most likely first, and how likely each is."""
        [row] = probabilities
        ids = [id_ for id_ in np.argsort(-row, kind="stable") if row[id_] > self.threshold]
        return "\t".join(f"{self.tokenizer.targets.name(int(i))}\t{row[i]:.4f}" for i in ids)


def shortened(texts: Sequence[list[int]], room: int) -> list[list[int]]:
    """The beginnings of texts that fit in together: the longest one is cut, and then all alike."""
    left, kept = room, {}
    for count, i in enumerate(sorted(range(len(texts)), key=lambda i: len(texts[i]))):
        kept[i] = min(len(texts[i]), max(0, left) // (len(texts) - count))
        left -= kept[i]
    return [text[: kept[i]] for i, text in enumerate(texts)]
