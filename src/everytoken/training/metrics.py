"""Exact metrics: two states, a sum and a count, added over batches and ranks and divided once.

So a metric doesn't depend on how the examples were cut into batches. Where nothing was counted the
value is NaN: there is no accuracy of nothing.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from everytoken.batch import IGNORE_INDEX
from everytoken.training.loss import check_shapes, masked_cross_entropy


class Ratio(Metric):
    """A sum divided by a count. Float sums are kept in float64, whole ones in int64.

    Args:
        whole: True if what is summed is a number of things.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, *, whole: bool = True) -> None:
        super().__init__()
        dtype = torch.int64 if whole else torch.float64
        self.add_state("total", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, total: Tensor | int, count: Tensor | int) -> None:
        """Add a sum and the number of things it was summed over, both ()."""
        self.total += total.detach().to(self.total.dtype) if isinstance(total, Tensor) else total
        self.count += count

    def compute(self) -> Tensor:
        """The ratio, () float64."""
        return self.total.double() / self.count


class MeanLoss(Ratio):
    """Loss per target token, in nats."""

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__(whole=False)


class HitRate(Ratio):
    """Share of target tokens whose right token is the most likely one."""

    higher_is_better = True


class MaskedAccuracy(Ratio):
    """Share of target tokens whose right token is among the top_k most likely ones.

    Args:
        ignore_index: marks positions without a target.
        top_k: how many guesses a token has.
    """

    higher_is_better = True

    def __init__(self, ignore_index: int = IGNORE_INDEX, top_k: int = 1) -> None:
        super().__init__()
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        self.ignore_index = ignore_index
        self.top_k = top_k

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count one batch: logits (…, V) and targets (…)."""
        check_shapes(logits, targets)
        if self.top_k > logits.shape[-1]:
            raise ValueError(f"top_k={self.top_k} exceeds the vocabulary of {logits.shape[-1]}")
        guesses = logits.topk(self.top_k, dim=-1).indices  # (…, top_k)
        is_target = targets != self.ignore_index
        hits = (guesses == targets.unsqueeze(-1)).any(-1) & is_target
        super().update(hits.sum(), is_target.sum())


class ExactMatch(Ratio):
    """Share of texts that equal their reference from the first character to the last."""

    higher_is_better = True

    def update(self, predictions: Sequence[object], references: Sequence[object]) -> None:
        """Count texts, or sequences of token ids; lengths may differ."""
        hits = sum(p == r for p, r in zip(predictions, references, strict=True))
        super().update(hits, len(references))


class Perplexity(Ratio):
    """exp(cross-entropy per target token), over everything that was counted.

    Args:
        ignore_index: marks positions without a target.
    """

    higher_is_better = False

    def __init__(self, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__(whole=False)
        self.ignore_index = ignore_index

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count one batch: logits (…, V) and targets (…)."""
        loss = masked_cross_entropy(logits, targets, self.ignore_index, reduction="sum")
        super().update(loss, (targets != self.ignore_index).sum())

    def compute(self) -> Tensor:
        """() float64, at least 1."""
        return super().compute().exp()


class BitsPerByte(Ratio):
    """Bits to encode a byte of text with: comparable between tokenizers, unlike loss per token.

    The loss in nats of all target tokens, special ones too, over the bytes of UTF-8 that their
    texts have in the corpus.
    """

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__(whole=False)

    def compute(self) -> Tensor:
        """() float64."""
        return super().compute() / math.log(2)
