"""Prefix language modelling: of a text only what follows a prefix is learned, of a pair its target.

As Liu et al. (2018) and Raffel et al. (2020, section 3.2.1) have it: a token of the prefix sees all
of the prefix, what comes later in it too, if the model can.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from everytoken.batch import IGNORE_INDEX
from everytoken.data.classes import shortened
from everytoken.data.collate import Example
from everytoken.data.item import Item
from everytoken.data.objective import CausalLM, ExampleKey, Long, Record, length_of
from everytoken.tokenizer.special import SpecialIds


class PrefixLM(CausalLM):
    """Predict each token of a text that follows a prefix, from all before it in the same window.

    How long the prefix is, from the begin token alone to all but the last, is drawn anew for each
    epoch, all lengths alike; in evaluation it is always the same one. Of a pair the source is the
    prefix, between a begin and an end token, and the target with its end follows.

    Args:
        special, vocabulary, window_tokens, stride_tokens: see `CausalLM`.
        long: the same. Pairs have no windows: "windows" refuses long ones.
        two_way: True if the tokens of a prefix may see each other, False for those before them.
        fields: what a record consists of, if it is a source and a target; None for one text.
    """

    drawn = ("two_way",)

    def __init__(
        self,
        special: SpecialIds,
        vocabulary: int,
        window_tokens: int,
        stride_tokens: int,
        long: Long,
        two_way: bool = False,
        fields: Sequence[str] | None = None,
    ) -> None:
        self.is_of_pairs = fields is not None and len(fields) > 1
        if self.is_of_pairs and long == "windows":
            long = "refuse"
        super().__init__(special, vocabulary, window_tokens, stride_tokens, long)
        self.two_way = two_way

    def is_too_long(self, record: Record) -> bool:
        """True if the text and its begin or end don't fit into a window; or the pair and both."""
        return sum(map(len, record.values())) + 1 + self.is_of_pairs > self.window_tokens

    def items(self, record: Record) -> list[Item]:
        """Windows as of `CausalLM`; one item of a pair."""
        if not self.is_of_pairs:
            return super().items(record)
        source, target = record.values()
        s, end = self.special, [self.special.eos]
        if self.long == "truncate" and self.is_too_long(record):
            whole = len(target)
            source, target = shortened([source, target], self.window_tokens - 2)
            end = end if len(target) == whole else []
        ids = np.array([s.eos, *target, *end], dtype=np.int32)
        return [Item(ids, context_ids=np.array([s.bos, *source], dtype=np.int32))]

    def example(self, item: Item, key: ExampleKey) -> Example:
        """Inputs and, one position ahead, labels, which are ignored inside of the prefix."""
        example = super().example(item, key)
        first, count = length_of(item.context_ids), len(item.ids) - 1
        prefix = first + 1
        if item.reference is not None:  # from where evaluation generates, and counts
            prefix = item.reference.prompt_tokens
        elif not self.is_of_pairs:
            prefix = first + int(np.random.default_rng(list(key)).integers(1, count + 1))
        labels = example.labels.copy()
        labels[: prefix - 1] = IGNORE_INDEX
        return self._with_prefix(replace(example, labels=labels), prefix)

    def _with_prefix(self, example: Example, length: int) -> Example:
        return replace(example, prefix_length=length if self.two_way else None)

    def prompt(self, ids: list[int]) -> Example:
        """Begin + text; of a source its end too. All of it is the prefix."""
        example = super().prompt([*ids, self.special.eos] if self.is_of_pairs else ids)
        return self._with_prefix(example, len(example.input_ids))

    def learned(self, items: Sequence[Item], examples: Sequence[Example]) -> Iterator[slice]:
        """Which tokens of a text each of its examples learns; the end token is one beyond them."""
        end = 0
        for item, example in zip(items, examples, strict=True):
            end += len(item.ids) - 1
            yield slice(end - int((example.labels != IGNORE_INDEX).sum()), end)
