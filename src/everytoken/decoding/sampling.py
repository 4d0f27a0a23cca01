"""Generation one token at a time: the most likely one, or one that is sampled.

Shapes: R sequences that are still continued, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from everytoken.decoding.continuation import Continuation

Sampler = Callable[[Tensor, list[int]], Tensor]
"""Logits (R, V), and which sequences of the batch they belong to → a token for each, (R,)."""


class OneByOne(ABC):
    """What greedy decoding and sampling share."""

    hypotheses = 1
    """Rows that a sequence takes."""

    @abstractmethod
    def sampler(self, keys: list[int]) -> Sampler:
        """How tokens are chosen for the sequences of one batch; `keys` name them."""

    def decode(
        self, continuation: Continuation, keys: list[int], *, end_id: int, max_new_tokens: int
    ) -> list[list[int]]:
        """See `Decoding`."""
        answers: list[list[int]] = [[] for _ in keys]
        for step in self.stream(continuation, keys, end_id=end_id, max_new_tokens=max_new_tokens):
            for row, token in step.items():
                answers[row].append(token)
        return answers

    def stream(
        self, continuation: Continuation, keys: list[int], *, end_id: int, max_new_tokens: int
    ) -> Iterator[dict[int, int]]:
        """The same token by token: at each step that of each sequence that isn't over."""
        sample = self.sampler(keys)
        rows = list(range(len(keys)))
        ends = continuation.ends(end_id)
        logits = continuation.start()
        for step in range(1, max_new_tokens + 1):
            ids = sample(logits, rows)
            tokens = ids.tolist()
            open_rows = [i for i, token in enumerate(tokens) if token not in ends]
            yield {rows[i]: tokens[i] for i in open_rows}
            if not open_rows or step == max_new_tokens:
                return
            if len(open_rows) < len(rows):
                keep = torch.tensor(open_rows, device=ids.device)
                continuation.select(keep[:, None])
                rows, ids = [rows[i] for i in open_rows], ids[keep]
            logits = continuation.step(ids)


@dataclass(frozen=True)
class Greedy(OneByOne):
    """Always the most likely token."""

    def sampler(self, keys: list[int]) -> Sampler:
        """See `OneByOne`."""
        return lambda logits, rows: logits.argmax(-1)


@dataclass(frozen=True, kw_only=True)
class Sampling(OneByOne):
    """A token sampled as the model's probabilities have it; unlikely ones can be left out.

    The randomness of a sequence is keyed by (seed, key): it doesn't depend on its neighbours.

    Args:
        temperature: above 0; logits are divided by it: below 1 likely tokens become likelier.
        top_k: only this many most likely tokens are considered; None for all.
        top_p: of those only the fewest most likely ones that have this probability together, above
            0 and at most 1 (Holtzman et al. 2020, section 3.1); None for all.
        seed: at least 0.
    """

    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int

    def sampler(self, keys: list[int]) -> Sampler:
        """See `OneByOne`."""
        generators = [np.random.default_rng([self.seed, key]) for key in keys]

        def sample(logits: Tensor, rows: list[int]) -> Tensor:
            draws = [generators[row].random() for row in rows]
            return self.pick(logits, torch.tensor(draws, device=logits.device, dtype=logits.dtype))

        return sample

    def pick(self, logits: Tensor, draws: Tensor) -> Tensor:
        """The tokens (R,) that numbers (R,) from 0 to 1 point at, each as often as it is likely."""
        size = logits.shape[-1]
        top, ids = logits.topk(size if self.top_k is None else min(self.top_k, size))
        p = (top / self.temperature).softmax(-1)
        if self.top_p is not None:
            p = p.masked_fill(p.cumsum(-1) - p >= self.top_p, 0)
        sums = p.cumsum(-1)
        place = torch.searchsorted(sums, draws[:, None] * sums[:, -1:], right=True)
        # Rounding may point behind the last one that is considered.
        place = place.minimum((p > 0).sum(-1, keepdim=True) - 1)
        return ids.gather(1, place).squeeze(1)
