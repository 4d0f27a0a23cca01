"""Tokens are hidden, and restored from both sides."""

import numpy as np

from everytoken.batch import IGNORE_INDEX
from everytoken.data.collate import Example
from everytoken.data.item import Item
from everytoken.data.objective import ExampleKey, Long, Windowed, after, length_of
from everytoken.errors import UserError
from everytoken.tokenizer.special import SpecialIds


class MaskedLM(Windowed):
    """Restore corrupted tokens from both sides (Devlin et al. 2019, section 3.1).

    Of the tokens drawn for prediction 80% become the mask, 10% a random token, 10% stay. Drawn
    anew for each epoch; at least one per window, and none of what the window before has drawn from.

    Args:
        special: ids of the special tokens.
        vocabulary: V; random tokens are any of these but the special ones.
        window_tokens: positions of a window, at most.
        stride_tokens: positions from one window to the next, at most those of a window. If fewer,
            windows overlap: each token can be drawn in one of them only, and is read in others.
        long: what becomes of texts that are longer than a window.
        corrupted_fraction: share of the tokens to predict, above 0 and at most 1.

    Raises:
        UserError: there is no mask token.
    """

    drawn = ("corrupted_fraction",)

    def __init__(
        self,
        special: SpecialIds,
        vocabulary: int,
        window_tokens: int,
        stride_tokens: int,
        long: Long,
        corrupted_fraction: float,
    ) -> None:
        super().__init__(special, vocabulary, window_tokens, stride_tokens, long)
        self.corrupted_fraction = corrupted_fraction
        if special.mask is None:
            raise UserError(
                "masked language modelling needs a mask token and the tokenizer has none: "
                "name one of its tokens with tokenizer.mask, or choose another tokenizer"
            )
        self.mask = special.mask
        named = [token for token in special if token is not None]
        self.ordinary = np.setdiff1d(np.arange(vocabulary, dtype=np.int32), named)

    def real_count(self, item: Item) -> int:
        """Inputs of the window."""
        return len(item.ids) + length_of(item.context_ids)

    def example(self, item: Item, key: ExampleKey) -> Example:
        """Corrupted inputs; labels where corruption may have struck."""
        rng = np.random.default_rng(list(key))
        ids = item.ids
        count = max(1, round(self.corrupted_fraction * len(ids)))
        drawn = rng.permutation(len(ids))[:count]
        labels = np.full(len(ids), IGNORE_INDEX)
        labels[drawn] = ids[drawn]
        inputs = ids.copy()
        draws = rng.random(count)
        inputs[drawn[draws < 0.8]] = self.mask
        randomised = drawn[(draws >= 0.8) & (draws < 0.9)]
        inputs[randomised] = rng.choice(self.ordinary, len(randomised))
        return after(item.context_ids, Example(inputs, labels))

    def prompt(self, ids: list[int]) -> Example:
        """Text + end; the masks in it are to be filled."""
        inputs = np.array([*ids, self.special.eos])
        return Example(inputs, np.where(inputs == self.mask, inputs, IGNORE_INDEX))
