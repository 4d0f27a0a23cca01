"""Token ids → `Example`: what the model reads and what it must predict. The only place that shifts.

An objective first cuts a record of the corpus into items (a long document becomes several), then
makes an example of an item each time that it is drawn. Any randomness in that is keyed by
(seed, epoch, index), so it doesn't depend on devices, batches or loader workers.

What becomes of a record that is too long is the user's choice, `long`:

    windows     it is cut, and nothing is lost: each token is predicted once (texts only)
    truncate    its beginning is used, the rest is lost
    drop        it is left out
    refuse      there is no training

A text that is truncated has no end token where it was cut: it doesn't end there.
"""

from collections.abc import Callable, Iterator
from inspect import signature
from itertools import count
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from everytoken.batch import IGNORE_INDEX
from everytoken.corpora.documents import Document
from everytoken.data.collate import Example, Ids
from everytoken.data.item import Item
from everytoken.data.marked import Marked
from everytoken.tokenizer.special import SpecialIds
from everytoken.tokenizer.tokenizer import Tokenizer

Long = Literal["windows", "truncate", "truncate_left", "truncate_right", "drop", "refuse"]
"""What becomes of records that are too long."""

Record = dict[str, list[int]]
"""Token ids of each text of an example of the corpus."""


class ExampleKey(NamedTuple):
    """Names one draw of one example: the key of all randomness in it."""

    seed: int
    epoch: int
    example: int


class Objective(Protocol):
    """What a task asks of the model.

    It may also have `encode(examples, place)`: the records of some examples, texts by field, where
    they are more than the ids of each text. A record then has `ids`, all of its tokens, and
    `place(i)` says in words which example the i-th is. And if its constructor takes `tokenizer`, it
    is given that too.

    Where a mask of a line stands for a span, it has `filled(prompt, answer)`: the ids of the line,
    with those of an answer in the place of masks. And where of a text a part is learned, it has
    `learned(items, examples)`: which tokens of the text each example learns, as slices.

    And `drawn`: names of arguments on which no item depends, only what is made of it when it is
    drawn. So items that were prepared with others will do.
    """

    has_source: bool
    """True if examples have source_ids."""
    long: Long
    """What becomes of records that are too long."""
    limit: str
    """The setting that says what is too long: the name of an argument."""

    def is_too_long(self, record: Any) -> bool:
        """True if `long` says what becomes of a record. It is dropped or refused by `Corpus`."""
        ...

    def items(self, record: Any) -> list[Item]:
        """Cut a record into items."""
        ...

    def real_count(self, item: Item) -> int:
        """Real tokens of the item's example, source included."""
        ...

    def example(self, item: Item, key: ExampleKey) -> Example:
        """Make inputs and targets."""
        ...

    def prompt(self, ids: list[int]) -> Example:
        """Where generation from a text starts; its targets are the positions to fill, if any."""
        ...


class Seq2Seq:
    """Predict each target token from the source and the target tokens before it.

    Args:
        special: ids of the special tokens.
        vocabulary: V.
        start_id: first input of the decoder; None for the tokenizer's begin token.
        max_tokens: most positions of the source, and of the target.
        long: "truncate", "drop" or "refuse" pairs of which a side is longer.
    """

    has_source = True
    limit = "max_tokens"

    def __init__(
        self,
        special: SpecialIds,
        vocabulary: int,
        start_id: int | None,
        max_tokens: int,
        long: Long,
    ) -> None:
        self.special = special
        self.start_id = special.bos if start_id is None else start_id
        self.max_tokens = max_tokens
        self.long: Long = long

    def is_too_long(self, record: Record) -> bool:
        """True if a text and its end don't fit in."""
        return max(len(record["source"]), len(record["target"])) + 1 > self.max_tokens

    def items(self, record: Record) -> list[Item]:
        """One item: source + end, begin + target + end. A truncated source has its end too."""
        s = self.special
        source, target = record["source"], [self.start_id, *record["target"], s.eos]
        if self.long == "truncate":
            source, target = source[: self.max_tokens - 1], target[: self.max_tokens + 1]
        return [Item(np.array(target, dtype=np.int32), np.array([*source, s.eos], dtype=np.int32))]

    def real_count(self, item: Item) -> int:
        """Source tokens and decoder inputs."""
        assert item.source_ids is not None
        return len(item.source_ids) + len(item.ids) - 1

    def example(self, item: Item, key: ExampleKey) -> Example:
        """Decoder inputs and, one position ahead, labels."""
        return Example(item.ids[:-1], item.ids[1:], item.source_ids)

    def prompt(self, ids: list[int]) -> Example:
        """The source, and the begin of the target."""
        source = np.array([*ids, self.special.eos])
        return Example(np.array([self.start_id]), np.array([IGNORE_INDEX]), source)


class Windowed:
    """What objectives of one text share: how a long one is cut."""

    has_source = False
    limit = "window_tokens"
    ahead = 0
    """Ids of an item beyond the positions of its window."""

    def __init__(
        self,
        special: SpecialIds,
        vocabulary: int,
        window_tokens: int,
        stride_tokens: int,
        long: Long,
    ) -> None:
        self.special = special
        self.vocabulary = vocabulary
        self.window_tokens = window_tokens
        self.stride_tokens = stride_tokens
        self.long: Long = long

    @property
    def marks(self) -> tuple[list[int], list[int]]:
        """What stands before a text, and after it."""
        return [], [self.special.eos]

    def items(self, record: Record) -> list[Item]:
        """Windows of the text and its marks."""
        before, after = self.marks
        ids = np.array([*before, *record["text"], *after], dtype=np.int32)
        return [self._item(ids, window) for window in self.windows(len(ids) - self.ahead)]

    def placed(self, document: Document) -> Iterator[Item]:
        """The same of a text whose ids are in a file, one after the other."""
        marked = Marked(document, *self.marks)
        for begin, own, end in self.windows(len(marked) - self.ahead):
            item = self._item(marked, (begin, own, end))
            yield item._replace(place=marked.place(begin, own, end + self.ahead))

    def _item(self, ids: "Ids | Marked", window: tuple[int, int, int]) -> Item:
        begin, own, end = window  # there is a context where windows overlap, in the first one too
        context = ids[begin:own] if self.stride_tokens < self.window_tokens else None
        return Item(ids[own : end + self.ahead], context_ids=context)

    def is_too_long(self, record: Record) -> bool:
        """True if the text and its begin or end don't fit into a window."""
        return len(record["text"]) + 1 > self.window_tokens

    def windows(self, length: int) -> Iterator[tuple[int, int, int]]:
        """Windows over so many positions: where each begins, where its own part does, its end.

        The own parts follow each other without gap; what stands before one is context.
        """
        size = self.window_tokens if self.long in ("windows", "truncate") else length
        begin, own, end = 0, 0, min(size, length)
        for number in count(1):
            yield begin, own, end
            if end >= length or self.long != "windows":
                return
            begin, own = min(number * self.stride_tokens, end), end
            end = min(begin + size, length)


class CausalLM(Windowed):
    """Predict each token of a text from those before it in the same window.

    Args:
        special: ids of the special tokens.
        vocabulary: V.
        window_tokens: positions of a window, at most.
        stride_tokens: positions from one window to the next, at most those of a window. If fewer,
            windows overlap: what a window has seen is read again by the next, and predicted once.
        long: what becomes of texts that are longer than a window.
    """

    ahead = 1
    """Each window starts with the last token of the one before."""

    @property
    def marks(self) -> tuple[list[int], list[int]]:
        """Begin and end."""
        return [self.special.bos], [self.special.eos]

    def real_count(self, item: Item) -> int:
        """Inputs of the window."""
        return len(item.ids) - 1 + length_of(item.context_ids)

    def example(self, item: Item, key: ExampleKey) -> Example:
        """Inputs and, one position ahead, labels."""
        return after(item.context_ids, Example(item.ids[:-1], item.ids[1:]))

    def prompt(self, ids: list[int]) -> Example:
        """Begin + text."""
        inputs = np.array([self.special.bos, *ids])
        return Example(inputs, np.full_like(inputs, IGNORE_INDEX))


def length_of(ids: Ids | None) -> int:
    """How many ids there are; 0 of none."""
    return 0 if ids is None else len(ids)


def after(context: Ids | None, example: Example) -> Example:
    """The example with something to read before it, which isn't to be predicted."""
    if context is None:
        return example
    ignored = np.full(len(context), IGNORE_INDEX)
    return Example(
        np.concatenate([context, example.input_ids]), np.concatenate([ignored, example.labels])
    )


ObjectiveFactory = Callable[..., Objective]
"""Makes an objective from `special` and `vocabulary`, which only the tokenizer knows."""


def build_objective(make: ObjectiveFactory, tokenizer: Tokenizer) -> Objective:
    """The objective of a task, for texts of a tokenizer."""
    more = {"tokenizer": tokenizer} if "tokenizer" in signature(make).parameters else {}
    return make(special=tokenizer.special, vocabulary=len(tokenizer), **more)
