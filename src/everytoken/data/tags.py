"""Tags of words: which token carries a word's tag, and that none is lost.

A text is its words with a space between them, and the end token, as a masked model reads a text.
The tag of a word stands on its first token (Devlin et al. 2019, section 5.3), and evaluation counts
there only: each word once. With label=all training learns at the other tokens too.
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everytoken.batch import IGNORE_INDEX
from everytoken.corpora.schemes import inside
from everytoken.corpora.words import Split, split_words
from everytoken.data.collate import Example
from everytoken.data.fields import joined
from everytoken.data.item import Item, Reference
from everytoken.data.objective import ExampleKey, Long
from everytoken.data.question import Question
from everytoken.errors import UserError
from everytoken.tokenizer.placed import Placed, encode_with_offsets
from everytoken.tokenizer.special import SpecialIds
from everytoken.tokenizer.tokenizer import Tokenizer

NAMED = 40
"""Characters of a word, or names of tags, that a message shows."""


class Tagged(NamedTuple):
    """A text in tokens."""

    ids: list[int]
    labels: list[int]
    """At each: the class of a word's first token, C + the class of any other, or IGNORE_INDEX."""


class TokenClassification:
    """Predict the tag of each word.

    Args:
        special: ids of the special tokens.
        vocabulary: V, which a tagger doesn't ask for.
        tokenizer: makes tokens of texts, and knows the C tags by id.
        max_tokens: most positions of a text.
        long: "truncate", "drop" or "refuse" texts that are longer; tags that are lost are counted.
        label: "first" learns at the first token of each word, "all" at all of them: where a word's
            tag begins an entity, its other tokens are inside of it (I-X), if there is such a tag.
        split: how a line that is to be tagged becomes words, see `split_words`.
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
        label: Literal["first", "all"],
        split: Split,
    ) -> None:
        self.special = special
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.long: Long = long
        self.label = label
        self.split: Split = split
        names = tokenizer.labels
        self.classes = {name: i for i, name in enumerate(names)}
        self.inside = [self.classes.get(inside(name), i) for i, name in enumerate(names)]

    def encode(
        self, examples: Sequence[dict[str, str]], place: Callable[[int], str]
    ) -> list[Tagged]:
        """Tokens of words, and their tags.

        Raises:
            UserError: with the place: as many tags as words there aren't, a tag that training has
                not, a word without a token of its own.
        """
        words = [json.loads(texts["words"]) for texts in examples]
        tokens = encode_with_offsets(self.tokenizer, [*map(joined, words)])
        found = []
        for i, (own, placed) in enumerate(zip(words, tokens, strict=True)):
            classes = self._classes(own, json.loads(examples[i]["tags"]), place(i))
            labels = [IGNORE_INDEX] * len(placed)
            for class_, (first, *others) in zip(
                classes, places(own, placed, place(i)), strict=True
            ):
                labels[first] = class_
                for other in others if self.label == "all" else ():
                    labels[other] = len(self.classes) + self.inside[class_]
            found.append(Tagged([token.id for token in placed], labels))
        return found

    def _classes(self, words: list[str], tags: list[str], place: str) -> list[int]:
        if len(words) != len(tags):
            raise UserError(
                f"{place} has {len(words)} words and {len(tags)} tags: give one tag a word"
            )
        for number, (word, tag) in enumerate(zip(words, tags, strict=True), start=1):
            if tag not in self.classes:
                known = ", ".join(self.tokenizer.labels[:NAMED])
                raise UserError(
                    f"{place}: word {number}, {word!r:.{NAMED}}, has the tag {tag!r:.{NAMED}}, and "
                    f"training has none such, but {known}: give it an example, or mend the tag"
                )
        return [self.classes[tag] for tag in tags]

    def is_too_long(self, record: Tagged) -> bool:
        """True if the text and its end don't fit in."""
        return len(record.ids) + 1 > self.max_tokens

    def items(self, record: Tagged) -> list[Item]:
        """One item: text + end, or the beginning of the text."""
        ids, labels = [*record.ids, self.special.eos], [*record.labels, IGNORE_INDEX]
        if self.long == "truncate":
            ids, labels = ids[: self.max_tokens], labels[: self.max_tokens]
        item = Item(np.array(ids, np.int32), labels=np.array(labels, np.int32))
        example = Example(item.ids, self._first(item))
        return [item._replace(reference=Reference.of(example))]

    def _first(self, item: Item) -> np.ndarray:
        """Labels of first tokens."""
        assert item.labels is not None
        return np.where(item.labels < len(self.classes), item.labels, IGNORE_INDEX)

    def label_count(self, item: Item) -> int:
        """Words whose tag is in an item."""
        return int((self._first(item) != IGNORE_INDEX).sum())

    def real_count(self, item: Item) -> int:
        """Inputs."""
        return len(item.ids)

    def example(self, item: Item, key: ExampleKey) -> Example:
        """Inputs, and tags where they stand; for evaluation at the first tokens of words only."""
        assert item.labels is not None
        if item.reference is not None:
            return Example(item.ids, self._first(item))
        labels = item.labels
        return Example(
            item.ids, np.where(labels < len(self.classes), labels, labels - len(self.classes))
        )

    def prompt(self, ids: list[int]) -> Example:
        """Text + end; each token asks for a tag."""
        inputs = np.array([*ids, self.special.eos])
        return Example(inputs, np.array([*[0] * len(ids), IGNORE_INDEX]))

    def question(self, line: str, place: str) -> Question:
        """A line as it is read; the answer is each of its words with a tag, as word/TAG.

        Raises:
            UserError: a word without a token of its own.
        """
        words = split_words(line, self.split)
        [placed] = encode_with_offsets(self.tokenizer, [joined(words)])
        example = self.prompt([token.id for token in placed])
        labels = np.full_like(example.labels, IGNORE_INDEX)
        labels[[first for first, *_ in places(words, placed, place)]] = 0

        def tell(probabilities: NDArray[np.floating]) -> str:
            tags = map(self.tokenizer.targets.name, probabilities.argmax(-1).tolist())
            return " ".join(f"{word}/{tag}" for word, tag in zip(words, tags, strict=True))

        return Question(example.input_ids, labels, tell=tell)


def places(words: Sequence[str], placed: Sequence[Placed], place: str) -> list[list[int]]:
    """Which tokens each word is of, at least one.

    Args:
        words: of a text, which has a space between them.
        placed: its tokens.
        place: of the text, for messages.

    Raises:
        UserError: a token of two words, or a word without a token: a tag would be lost.
    """
    ends = [*accumulate((len(word) + 1 for word in words), initial=0)]  # each with its space
    begins, ends = ends[:-1], [end - 1 for end in ends[1:]]
    found: list[list[int]] = [[] for _ in words]
    for i, token in enumerate(placed):
        first = bisect_right(ends, token.begin)
        last = bisect_left(begins, token.end) - 1
        if last > first:
            raise UserError(
                f"{place}: {words[first]!r:.{NAMED}} and {words[first + 1]!r:.{NAMED}}, words "
                f"{first + 1} and {first + 2}, are one token together, which can't have two tags: "
                "choose another tokenizer (char, byte and bpe keep words apart)"
            )
        if last == first:
            found[first].append(i)
    if [] in found:
        number = found.index([])
        raise UserError(
            f"{place}: the tokenizer has no token for word {number + 1}, {words[number]!r:.{NAMED}}"
            ", so its tag would be lost: take the word out, or choose another tokenizer (byte and "
            "bpe know all text)"
        )
    return found
