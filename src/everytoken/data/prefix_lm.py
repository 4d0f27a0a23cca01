"""Prefix language modelling: of a text only what follows a prefix is learned.

As Liu et al. (2018) and Raffel et al. (2020, section 3.2.1) have it, but that a token of the prefix
sees those before it only: the models of this package are causal all over a decoder's sequence.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from everytoken.batch import IGNORE_INDEX
from everytoken.data.collate import Example
from everytoken.data.item import Item
from everytoken.data.objective import CausalLM, ExampleKey, length_of


class PrefixLM(CausalLM):
    """Predict each token of a text that follows a prefix, from all before it in the same window.

    How long the prefix is, from the begin token alone to all but the last, is drawn anew for each
    epoch, all lengths alike; in evaluation it is always the same one. See `CausalLM`.
    """

    def example(self, item: Item, key: ExampleKey) -> Example:
        """Inputs and, one position ahead, labels, which are ignored inside of the prefix."""
        example = super().example(item, key)
        first, count = length_of(item.context_ids), len(item.ids) - 1
        prefix = first + int(np.random.default_rng(list(key)).integers(1, count + 1))
        if item.reference is not None:  # from where evaluation generates, and counts
            prefix = item.reference.prompt_tokens
        labels = example.labels.copy()
        labels[: prefix - 1] = IGNORE_INDEX
        return Example(example.input_ids, labels)

    def learned(self, items: Sequence[Item], examples: Sequence[Example]) -> Iterator[slice]:
        """Which tokens of a text each of its examples learns; the end token is one beyond them."""
        end = 0
        for item, example in zip(items, examples, strict=True):
            end += len(item.ids) - 1
            yield slice(end - int((example.labels != IGNORE_INDEX).sum()), end)
