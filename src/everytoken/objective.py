"""Token ids → `Example`: what the model reads and what it must predict. The only place that shifts.

An objective first cuts a record of the corpus into items (a long document becomes several), then
makes an example of an item each time that it is drawn. Any chance in that is keyed by
(seed, epoch, index), so it doesn't depend on devices, batches or loader workers.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from everytoken.batch import IGNORE_INDEX
from everytoken.collate import Example, Ids
from everytoken.errors import UserError

Record = dict[str, list[int]]
"""Token ids of each text of an example of the corpus."""


class SpecialIds(NamedTuple):
    """Ids of the tokens that no text contains. Several may be one token; None is for no token."""

    pad: int
    bos: int
    eos: int
    unk: int | None
    mask: int | None


class Item(NamedTuple):
    """Token ids of one sequence, special tokens included, before inputs and targets are made."""

    ids: Ids
    source_ids: Ids | None = None


class ExampleKey(NamedTuple):
    """Names one draw of one example: the key of all chance in it."""

    seed: int
    epoch: int
    example: int


class Objective(Protocol):
    """What a task asks of the model."""

    has_source: bool
    """True if examples have source_ids."""

    def items(self, record: Record) -> list[Item]:
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
    """

    has_source = True

    def __init__(self, special: SpecialIds, vocabulary: int, start_id: int | None) -> None:
        self.special = special
        self.start_id = special.bos if start_id is None else start_id

    def items(self, record: Record) -> list[Item]:
        """One item: source + end, begin + target + end."""
        s = self.special
        source = np.array([*record["source"], s.eos], dtype=np.int32)
        target = np.array([self.start_id, *record["target"], s.eos], dtype=np.int32)
        return [Item(target, source)]

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


class CausalLM:
    """Predict each token of a text from those before it in the same window.

    Documents longer than a window are cut; each token is still predicted exactly once.

    Args:
        special: ids of the special tokens.
        vocabulary: V.
        window_tokens: positions of a window.
    """

    has_source = False

    def __init__(self, special: SpecialIds, vocabulary: int, window_tokens: int) -> None:
        self.special = special
        self.window_tokens = window_tokens

    def items(self, record: Record) -> list[Item]:
        """Windows of begin + text + end; each starts with the last token of the one before."""
        ids = np.array([self.special.bos, *record["text"], self.special.eos], dtype=np.int32)
        starts = range(0, len(ids) - 1, self.window_tokens)
        return [Item(ids[start : start + self.window_tokens + 1]) for start in starts]

    def real_count(self, item: Item) -> int:
        """Inputs of the window."""
        return len(item.ids) - 1

    def example(self, item: Item, key: ExampleKey) -> Example:
        """Inputs and, one position ahead, labels."""
        return Example(item.ids[:-1], item.ids[1:])

    def prompt(self, ids: list[int]) -> Example:
        """Begin + text."""
        inputs = np.array([self.special.bos, *ids])
        return Example(inputs, np.full_like(inputs, IGNORE_INDEX))


class MaskedLM:
    """Restore corrupted tokens from both sides (Devlin et al. 2019, section 3.1).

    Of the tokens drawn for prediction 80% become the mask, 10% a random token, 10% stay. Drawn
    anew for each epoch; at least one per window.

    Args:
        special: ids of the special tokens.
        vocabulary: V; random tokens are any of these but the special ones.
        window_tokens: positions of a window.
        corrupted_fraction: share of the tokens to predict, above 0 and at most 1.

    Raises:
        UserError: there is no mask token.
    """

    has_source = False

    def __init__(
        self, special: SpecialIds, vocabulary: int, window_tokens: int, corrupted_fraction: float
    ) -> None:
        self.special = special
        self.window_tokens = window_tokens
        self.corrupted_fraction = corrupted_fraction
        if special.mask is None:
            raise UserError(
                "masked language modelling needs a mask token and the tokenizer has none: "
                "name one of its tokens with tokenizer.mask, or choose another tokenizer"
            )
        self.mask = special.mask
        named = [token for token in special if token is not None]
        self.ordinary = np.setdiff1d(np.arange(vocabulary, dtype=np.int32), named)

    def items(self, record: Record) -> list[Item]:
        """Windows of text + end."""
        ids = np.array([*record["text"], self.special.eos], dtype=np.int32)
        starts = range(0, len(ids), self.window_tokens)
        return [Item(ids[start : start + self.window_tokens]) for start in starts]

    def real_count(self, item: Item) -> int:
        """Inputs of the window."""
        return len(item.ids)

    def example(self, item: Item, key: ExampleKey) -> Example:
        """Corrupted inputs; labels where corruption may have struck."""
        chance = np.random.default_rng(list(key))
        ids = item.ids
        count = max(1, round(self.corrupted_fraction * len(ids)))
        chosen = chance.permutation(len(ids))[:count]
        labels = np.full(len(ids), IGNORE_INDEX)
        labels[chosen] = ids[chosen]
        inputs = ids.copy()
        dice = chance.random(count)
        inputs[chosen[dice < 0.8]] = self.mask
        randomised = chosen[(dice >= 0.8) & (dice < 0.9)]
        inputs[randomised] = chance.choice(self.ordinary, len(randomised))
        return Example(inputs, labels)

    def prompt(self, ids: list[int]) -> Example:
        """Text + end; the masks in it are to be filled."""
        inputs = np.array([*ids, self.special.eos])
        return Example(inputs, np.where(inputs == self.mask, inputs, IGNORE_INDEX))


ObjectiveFactory = Callable[..., Objective]
"""Makes an objective from `special` and `vocabulary`, which only the tokenizer knows."""
