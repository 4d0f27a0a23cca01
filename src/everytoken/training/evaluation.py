"""Exact evaluation of a model: each example counted once, sums divided once."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from everytoken.batch import Batch, select
from everytoken.decoding.generate import Decoding, Prediction, beginnings, generate
from everytoken.decoding.sampling import Greedy
from everytoken.runtime.data_ranks import data_ranks
from everytoken.tokenizer.special import SpecialIds
from everytoken.training.answers import Limit, limit_for, reference_ids, reference_texts
from everytoken.training.contract import check_batches, check_head, check_hidden
from everytoken.training.distributed import gathered
from everytoken.training.evaluation_metrics import EvaluationMetrics
from everytoken.training.loss import most_likely, target_sums
from everytoken.training.step_state import EvaluationState, StepState


class EvaluationModule(L.LightningModule):
    """Evaluates a model of token sequences, and generates with it; `TokenModule` also trains it.

    The loss of evaluation is the plain cross-entropy, whatever training minimizes: perplexity is
    made of it, and runs with different losses can be compared.

    Args:
        model: see `TokenModule`.
        special: ids of the special tokens.
        decode: token ids → text, for metrics of texts.
        max_new_tokens: how far evaluation generates, for exact match; "auto" for as far as the
            longest reference goes; None for no generation.
        decoding: how it generates; None for greedily.
        more_metrics: further metrics by name, each updated with logits (M, V) and targets (M,) of
            target tokens; or with generated texts, if it is a `TextMetric`; or with the classes of
            sequences, if it is a `SequenceMetric`.
        counts_bytes: True to count bits per byte, of batches that know their texts.

    Raises:
        UserError: in use, if the model doesn't keep the contract.
        ValueError: a `TextMetric` without generation.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        special: SpecialIds,
        decode: Callable[[list[int]], str],
        max_new_tokens: Limit | None = None,
        decoding: Decoding | None = None,
        more_metrics: Mapping[str, Metric] = MappingProxyType({}),
        counts_bytes: bool = False,
    ) -> None:
        super().__init__()
        # Else torch's own encoder layers take another way in evaluation than in training, which
        # overlooks autocast on CPUs and fails there in bf16.
        torch.backends.mha.set_fastpath_enabled(False)
        self.model = model
        self.special = special
        self.decode = decode
        self.max_new_tokens: Limit | None = max_new_tokens
        self.decoding = decoding or Greedy()
        self.step = StepState()
        self.evaluated = EvaluationState()
        generates = max_new_tokens is not None
        self.val_metrics, self.test_metrics = (
            EvaluationMetrics(more_metrics, generates=generates, counts_bytes=counts_bytes)
            for _ in range(2)
        )

    @property
    def head(self) -> nn.Module:
        """The model's head."""
        return check_head(self.model)

    def hidden(self, batch: Batch) -> Tensor:
        """The model's hidden states (M, D) of the target tokens of a micro-batch.

        Raises:
            UserError: the model returned something else.
        """
        self.step.batch = batch
        return check_hidden(self.model, batch, self.model(batch))

    def generate(self, prompts: Batch, max_new_tokens: int) -> list[list[int]]:
        """Continue each prompt, see `everytoken.decoding.generate`."""
        self.step.batch = prompts
        with gathered(self.model):
            return generate(
                self.model,
                self.head,
                prompts,
                self.decoding,
                end_id=self.special.eos,
                max_new_tokens=max_new_tokens,
            )

    def on_validation_epoch_start(self) -> None:
        """Forget the evaluation before."""
        self._begin_evaluation(self.val_metrics)

    def on_test_epoch_start(self) -> None:
        """Forget the evaluation before."""
        self._begin_evaluation(self.test_metrics)

    def _begin_evaluation(self, metrics: EvaluationMetrics) -> None:
        self.evaluated = EvaluationState()
        metrics.add_up_over(data_ranks(self.trainer).group)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one micro-batch of the validation split."""
        [batch] = check_batches(batch)
        self.evaluation_step(batch, self.val_metrics, keep=batch_idx == 0)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one micro-batch of the test split."""
        [batch] = check_batches(batch)
        self.evaluation_step(batch, self.test_metrics, keep=batch_idx == 0)

    def on_validation_epoch_end(self) -> None:
        """Divide, once."""
        self._log_metrics("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Divide, once."""
        self._log_metrics("test", self.test_metrics)

    def evaluation_step(self, batch: Batch, metrics: EvaluationMetrics, *, keep: bool) -> None:
        """Count one micro-batch.

        Args:
            batch: of any split; a filler counts nothing.
            metrics: what counts it.
            keep: True to keep what was predicted, to be shown.
        """
        hidden = self.hidden(batch)
        sums = target_sums(hidden, self.head, batch.targets)
        unknown = 0 if batch.is_filler else None
        byte_count = batch.references.byte_count if batch.references else unknown
        metrics.update_sums(sums, batch.target_count, byte_count)
        if metrics.reads_logits and batch.target_count:
            metrics.update_tokens(self.head(hidden).float(), batch.targets)
        if self.max_new_tokens is not None:
            limit = limit_for(batch, self.max_new_tokens)
            rows = self._count_generated(batch, metrics, limit)
            if keep:
                self.evaluated.predictions = rows
        elif (keep or metrics.reads_sequences) and not batch.is_filler:
            references, predictions = by_row(batch, most_likely(self.head(hidden), batch.targets))
            metrics.update_sequences(predictions, references)
            if keep:
                rows = zip(select(*batch.first_side), references, predictions, strict=True)
                self.evaluated.predictions = [
                    Prediction(*row, places=places)
                    for row, places in zip(rows, _places(batch), strict=True)
                ]

    def _count_generated(
        self, batch: Batch, metrics: EvaluationMetrics, limit: int
    ) -> list[Prediction]:
        """Count what is generated; it and the references, without end tokens; [] of a filler."""
        prompts = beginnings(batch)
        predictions = self.generate(prompts, limit)  # ranks together
        rows = reference_ids(batch, prompts)
        if batch.is_filler:
            predictions, rows = [], []
        references = [[token for token in row if token != self.special.eos] for row in rows]
        texts = [*map(self.decode, predictions)]
        wanted = reference_texts(batch, references, self.decode)
        metrics.update_texts(texts, wanted)
        metrics.cut_off.update(sum(len(row) >= limit for row in predictions), len(predictions))
        if batch.indices is not None:
            self.evaluated.texts.update(zip(batch.indices.tolist(), texts, strict=True))
        right = [text == reference for text, reference in zip(texts, wanted, strict=True)]
        shown = zip(select(*prompts.first_side), references, predictions, right, strict=False)
        goes_on = batch.source_ids is None
        return [Prediction(*row, goes_on=goes_on) for row in shown]

    def _log_metrics(self, split: str, metrics: EvaluationMetrics) -> None:
        values = {f"{split}/{name}": value for name, value in metrics.values().items()}
        self.log_dict({"step": float(self.trainer.global_step), **values})
        if self.max_new_tokens is not None:
            self.evaluated.cut_off = float(metrics.cut_off.compute())  # of all ranks
        self.evaluated.details = metrics.details()
        metrics.reset()


def _places(batch: Batch) -> list[list[int]] | list[None]:
    """Where each row's targets stand among its real tokens; None of rows of several classes."""
    if batch.classes is not None:
        return [None] * len(batch.labels)
    rows = select(batch.is_target, batch.is_real)
    return [[place for place, is_target in enumerate(row) if is_target] for row in rows]


def by_row(batch: Batch, predicted: Tensor) -> tuple[list[list[int]], list[list[int]]]:
    """The targets of each row, and what is predicted of them; of several classes, which they are.

    Args:
        batch: its targets are (M,), or (M, C) with one target a row.
        predicted: in the same form.
    """
    if predicted.ndim == 2:
        targets, predicted = batch.targets == 1, predicted == 1
        classes = torch.arange(predicted.shape[1], device=predicted.device).expand_as(predicted)
        return select(classes, targets), select(classes, predicted)
    found = torch.zeros_like(batch.labels)
    found[batch.is_target] = predicted
    return select(batch.labels, batch.is_target), select(found, batch.is_target)
