"""Exact metrics: two states, a sum and a count, added over batches and ranks and divided once.

So a metric doesn't depend on how the examples were cut into batches. Where nothing was counted the
value is NaN: there is no accuracy of nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from everytoken.batch import IGNORE_INDEX
from everytoken.errors import UserError
from everytoken.training.loss import TargetSums, check_shapes, masked_cross_entropy
from everytoken.training.sequence_metric import SequenceMetric
from everytoken.training.text_metrics import TextMetric


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


OF_ROWS = (TextMetric, SequenceMetric)
"""Kinds of metrics that aren't updated with logits."""


class EvaluationMetrics(nn.Module):
    """What evaluation counts on one split.

    Args:
        more: further metrics by name; copied.
        generates: True to compare generated sequences with their references too.
        counts_bytes: True to count bits per byte.

    Raises:
        ValueError: a metric of texts, and no generation.
    """

    def __init__(
        self,
        more: Mapping[str, Metric],
        *,
        generates: bool,
        counts_bytes: bool = False,
    ) -> None:
        super().__init__()
        for name, metric in more.items():
            if not isinstance(metric, Metric):
                raise ValueError(f"metrics.{name} is a {type(metric).__name__} and no Metric")
        of_texts = [name for name, metric in more.items() if isinstance(metric, TextMetric)]
        if of_texts and not generates:
            raise ValueError(
                f"metrics.{of_texts[0]} compares generated texts and nothing is generated: "
                "set task.max_new_tokens, or leave the metric out"
            )
        self.more = nn.ModuleDict({name: metric.clone() for name, metric in more.items()})
        self.loss: Ratio = MeanLoss()
        self.accuracy: Ratio = HitRate()
        self.exact_match = ExactMatch() if generates else None
        self.cut_off = Ratio()
        """Share of the answers that had no end where they were cut off; not one of the values."""
        self.bits_per_byte = BitsPerByte() if counts_bytes else None
        if twice := [name for name in self._further if self._further.count(name) > 1]:
            raise ValueError(f"two metrics are called {twice[0]}: give one of them another name")

    def add_up_over(self, group: Any) -> None:
        """Say which ranks count different examples: a process group, or None for all."""
        for metric in self.modules():
            if isinstance(metric, Metric):
                metric.process_group = group

    def update_sums(self, sums: TargetSums, target_count: int, byte_count: int | None) -> None:
        """Count loss and hits of target tokens, and bytes that they stand for, if it is known."""
        self.loss.update(sums.loss, target_count)
        self.accuracy.update(sums.correct, target_count)
        if self.bits_per_byte is not None and byte_count is not None:
            self.bits_per_byte.update(sums.loss, byte_count)

    def update_tokens(self, logits: Tensor, targets: Tensor) -> None:
        """Count logits (M, V) and targets (M,) of target tokens, in the further metrics.

        Raises:
            UserError: with the metric that refuses them.
        """
        for name, metric in self.more.items():
            if isinstance(metric, Metric) and not isinstance(metric, OF_ROWS):
                try:
                    metric.update(logits, targets)
                except ValueError as error:
                    raise UserError(
                        f"metrics.{name} ({type(metric).__name__}) can't count what this task "
                        f"predicts: {error}: leave it out, or change its arguments"
                    ) from error

    def update_sequences(self, predictions: list[list[int]], targets: list[list[int]]) -> None:
        """Count what is predicted at the targets of each sequence."""
        for metric in self.more.values():
            if isinstance(metric, SequenceMetric):
                metric.update(predictions, targets)

    def update_texts(self, predictions: list[str], references: list[str]) -> None:
        """Count generated texts."""
        if self.exact_match is not None:
            self.exact_match.update(predictions, references)
        for metric in self.more.values():
            if isinstance(metric, TextMetric):
                metric.update(predictions, references)

    @property
    def reads_logits(self) -> bool:
        """True if a further metric is one of target tokens."""
        return any(not isinstance(metric, OF_ROWS) for metric in self.more.values())

    @property
    def reads_sequences(self) -> bool:
        """True if a further metric is one of sequences."""
        return any(isinstance(metric, SequenceMetric) for metric in self.more.values())

    @property
    def names(self) -> list[str]:
        """Of the metrics, as `values` has them."""
        names = ["loss", "accuracy", "perplexity"]
        if self.bits_per_byte is not None:
            names.append("bits_per_byte")
        if self.exact_match is not None:
            names.append("exact_match")
        return names + self._further

    @property
    def _further(self) -> list[str]:
        found: list[str] = []
        for name, metric in self.more.items():
            found += metric.names if isinstance(metric, SequenceMetric) else [name]
        return found

    def higher_is_better(self, name: str) -> bool | None:
        """Which way a metric improves, as it says itself; None if it doesn't say.

        Args:
            name: one of `names`.
        """
        if name == "perplexity":  # made of the loss
            return Perplexity.higher_is_better
        several = [m for m in self.more.values() if isinstance(m, SequenceMetric)]
        metric = next((m for m in several if name in m.names), None) or (
            self.more[name] if name in self.more else getattr(self, name)
        )
        higher = getattr(metric, "higher_is_better", None)
        return higher if isinstance(higher, bool) else None  # a wrapper may say it of several

    def values(self) -> dict[str, Tensor]:
        """The metrics by name, each (), over all ranks.

        Raises:
            UserError: a further metric gives something else than one number.
        """
        loss = self.loss.compute()
        values = {"loss": loss, "accuracy": self.accuracy.compute(), "perplexity": loss.exp()}
        if self.bits_per_byte is not None:
            values["bits_per_byte"] = self.bits_per_byte.compute()
        if self.exact_match is not None:
            values["exact_match"] = self.exact_match.compute()
        for name, metric in self.more.items():
            assert isinstance(metric, Metric)
            value = metric.compute()
            if isinstance(metric, SequenceMetric):
                values |= value
                continue
            if not isinstance(value, Tensor | int | float) or torch.as_tensor(value).numel() != 1:
                raise UserError(
                    f"metrics.{name} ({type(metric).__name__}) gives {value!r:.60}, and only one "
                    "number can be logged: let its compute() return a Tensor of shape ()"
                )
            values[name] = torch.as_tensor(value).reshape(())
        return values

    def details(self) -> dict[str, Any]:
        """What metrics have to show besides: plain values, of what `values` gave."""
        found: dict[str, Any] = {}
        for metric in self.more.values():
            if details := getattr(metric, "details", None):
                found |= details()
        return found

    def reset(self) -> None:
        """Start from nothing."""
        for metric in self.modules():
            if isinstance(metric, Metric):
                metric.reset()
