"""Sequence classification: text → one class, learned at the first position."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everytoken.batch import IGNORE_INDEX
from everytoken.data.collate import Example
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
    """A text, or two, and its class."""

    texts: list[list[int]]
    """Tokens of each text."""
    target: int
    """The class."""

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
            UserError: an example that isn't of one class, or of one that training hasn't.
        """
        fields = ["text", "second"] if self.second else ["text"]
        columns = [self.tokenizer.encode([texts[f] for texts in examples]) for f in fields]
        for i, ids in enumerate(zip(*columns, strict=True)):
            yield Labelled([*ids], self._number(labels(examples[i], ["labels"]), place(i)))

    def _number(self, names: list[str], place: str) -> int:
        if len(names) != 1:
            raise UserError(
                f"{place} has {len(names)} labels ({', '.join(names)}): each text must have one"
            )
        if names[0] not in self.numbers:
            known = ", ".join([*self.numbers][:SHOWN]) + (
                ", …" if len(self.numbers) > SHOWN else ""
            )
            raise UserError(
                f"{place} has the label {names[0]!r}, and no training example has it ({known}): "
                "give training some, or leave the example out"
            )
        return self.numbers[names[0]]

    def is_too_long(self, record: Labelled) -> bool:
        """True if the texts, a begin, and an end after each don't fit in."""
        return len(record.ids) > self._room(len(record.texts))

    def items(self, record: Labelled) -> list[Item]:
        """One item."""
        texts = record.texts
        if self.long == "truncate":
            texts = shortened(texts, self._room(len(texts)))
        ids = self._joined(texts)
        targets = np.full_like(ids, IGNORE_INDEX)
        targets[0] = record.target
        name = self.tokenizer.labels[record.target]
        return [Item(ids, labels=targets, reference=Reference(0, 1, 1, 0, name))]

    def real_count(self, item: Item) -> int:
        """All tokens."""
        return len(item.ids)

    def example(self, item: Item, key: ExampleKey) -> Example:
        """Inputs, and the class at the first of them."""
        assert item.labels is not None
        return Example(item.ids, item.labels)

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
        return Question(example.input_ids, example.labels, tell=self._told)

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
        ids = self._joined(texts)
        targets = np.full_like(ids, IGNORE_INDEX)
        targets[0] = 0
        return Example(ids, targets)


def shortened(texts: Sequence[list[int]], room: int) -> list[list[int]]:
    """The beginnings of texts that fit in together: the longest one is cut, and then all alike."""
    left, kept = room, {}
    for count, i in enumerate(sorted(range(len(texts)), key=lambda i: len(texts[i]))):
        kept[i] = min(len(texts[i]), max(0, left) // (len(texts) - count))
        left -= kept[i]
    return [text[: kept[i]] for i, text in enumerate(texts)]
