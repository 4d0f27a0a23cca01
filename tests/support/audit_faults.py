"""Classic faults, each planted into the real parts; `test_audit` shows that the audit finds them.

A config names `planted` as its model, so that the fault is also there in each rank's process.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from everytoken.batch import IGNORE_INDEX, Batch, PaddingSide, real_positions
from everytoken.data import (
    chat,
    classes,
    epoch,
    laid_out,
    masked_lm,
    objective,
    prefix_lm,
    sampler,
    tags,
)
from everytoken.data import micro_batches as data
from everytoken.data.chat_template import ChatTemplate, Rendered
from everytoken.data.collate import Example
from everytoken.model import backends as attend
from everytoken.model import transformer as model
from everytoken.model.backends import Attend
from everytoken.model.block import SwiGLU
from everytoken.model.transformer import Transformer
from everytoken.model.unpad import Borders, repad, strip
from everytoken.model.visibility import Visibility
from everytoken.runtime.world import global_rank
from everytoken.training import (
    entities,
    evaluation_metrics,
    macro_f1,
    metrics,
    module,
    text_metrics,
)
from everytoken.training.loss import TargetSums
from everytoken.training.metrics import Ratio
from everytoken.training.module import TokenModule

_originals: list[tuple[Any, str, Any]] = []
FAULTS: dict[str, Callable[[], None]] = {}


def planted(fault: str, **sizes: Any) -> Transformer:
    """The package's own model; the fault is in the package from now on, until `restore`."""
    FAULTS[fault]()
    return Transformer(**sizes)


def restore() -> None:
    """Take all faults out of this process."""
    while _originals:
        setattr(*_originals.pop())


def patch(owner: Any, name: str, faulty: Any) -> Any:
    """Put `faulty` in the place of the original, which is returned."""
    original = getattr(owner, name)
    _originals.append((owner, name, original))
    setattr(owner, name, faulty)
    return original


def fault(plant: Callable[[], None]) -> Callable[[], None]:
    """A fault is a function that patches."""
    FAULTS[plant.__name__] = plant
    return plant


# Attention


def plant_attention(mask: Callable[[Tensor, bool, bool], Tensor | None]) -> None:
    """Attention whose mask (B, 1, T, S) is made of the right one, causal and cross."""

    def faulty(queries: Borders, keys: Borders, visibility: Visibility) -> Attend:
        def attend_by(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            q = repad(query, queries).transpose(1, 2)
            k, v = (repad(x, keys).transpose(1, 2) for x in (key, value))
            right = real_positions(keys.lengths, keys.max_seqlen, "right")[:, None, None, :]
            right = right.expand(-1, 1, q.shape[2], -1)
            if visibility.causal:
                right = right.tril()
            planted = mask(right, visibility.causal, queries is not keys)
            out = F.scaled_dot_product_attention(q, k, v, planted, enable_gqa=True)
            return strip(out.transpose(1, 2), queries)

        return attend_by

    patch(attend, "bucketed", faulty)


@fault
def key_padding_mask_dropped() -> None:
    plant_attention(lambda right, causal, cross: right if causal else None)


@fault
def mask_inverted() -> None:
    plant_attention(lambda right, causal, cross: right if causal else ~right)


@fault
def causal_mask_off_by_one() -> None:
    def mask(right: Tensor, causal: bool, cross: bool) -> Tensor:
        return torch.ones_like(right).tril(diagonal=1) if causal else right

    plant_attention(mask)


@fault
def prefix_mask_off_by_one() -> None:
    def forward(self: Transformer, batch: Batch) -> Tensor:
        if batch.prefix_lengths is not None:
            longer = (batch.prefix_lengths + 1).minimum(batch.lengths)
            batch = replace(batch, prefix_lengths=longer)
        return original(self, batch)

    original = patch(Transformer, "forward", forward)


@fault
def prefix_shows_a_target() -> None:
    def with_prefix(self: Any, example: Example, length: int) -> Example:
        return original(self, example, min(length + 1, len(example.input_ids)))

    original = patch(prefix_lm.PrefixLM, "_with_prefix", with_prefix)


@fault
def cross_attention_sees_source_padding() -> None:
    plant_attention(lambda right, causal, cross: None if cross else right)


# The rest of the model


@fault
def position_ids_count_left_padding() -> None:
    def unpad(
        ids: Tensor, lengths: Tensor, count: int, padding_side: PaddingSide
    ) -> tuple[Tensor, Borders]:
        real, borders = original(ids, lengths, count, padding_side)
        if padding_side == "left":
            before = (ids.shape[1] - lengths).repeat_interleave(lengths)
            borders = replace(borders, positions=borders.positions + before)
        return real, borders

    original = patch(model, "unpad", unpad)


@fault
def sequences_mixed() -> None:
    def forward(self: Transformer, batch: Batch) -> Tensor:
        hidden = original(self, batch)
        return hidden + 0.1 * hidden.mean(0) if len(hidden) else hidden

    original = patch(Transformer, "forward", forward)


@fault
def feed_forward_detached() -> None:
    original = patch(SwiGLU, "forward", lambda self, x: original(self, x).detach())


@fault
def overflow_in_half_precision() -> None:
    def forward(self: Transformer, batch: Batch) -> Tensor:
        hidden = original(self, batch)
        scale = torch.eye(hidden.shape[-1]) * 1e5
        return hidden @ scale @ (scale * 1e-10)

    original = patch(Transformer, "forward", forward)


@fault
def evaluation_overlooks_autocast() -> None:
    """As fused inference ways of torch's have done."""

    def forward(self: SwiGLU, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled():
            raise RuntimeError("expected scalar type Float but found BFloat16")
        return original(self, x)

    original = patch(SwiGLU, "forward", forward)


@fault
def dropout_in_evaluation() -> None:
    original = patch(SwiGLU, "forward", lambda self, x: F.dropout(original(self, x), 0.1))


@fault
def batch_norm() -> None:
    def faulty(self: SwiGLU, width: int, hidden: int) -> None:
        original(self, width, hidden)
        self.norm = torch.nn.BatchNorm1d(width)

    original = patch(SwiGLU, "__init__", faulty)
    forward = patch(SwiGLU, "forward", lambda self, x: forward(self, self.norm(x)))


@fault
def queries_know_the_length() -> None:
    def faulty(queries: Borders, keys: Borders, visibility: Visibility) -> Attend:
        right, lengths = original(queries, keys, visibility), queries.lengths
        scale = lengths.repeat_interleave(lengths).log().add(1)
        return lambda query, *others: right(query * scale[:, None, None], *others)

    original = patch(attend, "bucketed", faulty)


# Targets and padding


def plant_labels(labels: Callable[[np.ndarray], np.ndarray]) -> None:
    """Examples whose labels are made of begin, text and end."""
    for kind in (objective.Seq2Seq, objective.CausalLM):

        def example(self: Any, item: objective.Item, key: objective.ExampleKey) -> Example:
            return Example(item.ids[:-1], labels(item.ids), item.source_ids)

        patch(kind, "example", example)


@fault
def targets_not_shifted() -> None:
    plant_labels(lambda ids: ids[:-1])


@fault
def targets_shifted_twice() -> None:
    plant_labels(lambda ids: np.append(ids[2:], IGNORE_INDEX))


@fault
def corruption_left_out() -> None:
    def example(self: Any, item: objective.Item, key: objective.ExampleKey) -> Example:
        return Example(item.ids, original(self, item, key).labels)

    original = patch(masked_lm.MaskedLM, "example", example)


@fault
def corruption_depends_on_rank() -> None:
    def example(self: Any, item: objective.Item, key: objective.ExampleKey) -> Example:
        return original(self, item, key._replace(seed=key.seed + global_rank()))

    original = patch(masked_lm.MaskedLM, "example", example)


@fault
def corruption_depends_on_loader_worker() -> None:
    def example(self: Any, item: objective.Item, key: objective.ExampleKey) -> Example:
        worker = torch.utils.data.get_worker_info()
        return original(self, item, key._replace(seed=key.seed + (worker.id + 1 if worker else 0)))

    original = patch(masked_lm.MaskedLM, "example", example)


@fault
def pad_as_end_of_sequence_ignored() -> None:
    def collate(examples: Any, pad_id: int, **options: Any) -> Batch:
        batch = original(examples, pad_id, **options)
        labels = batch.labels.masked_fill(batch.labels == pad_id, IGNORE_INDEX)
        return replace(batch, labels=labels, target_count=int((labels != IGNORE_INDEX).sum()))

    original = patch(data, "collate", collate)


def plant_class(labels: Callable[[np.ndarray, int], np.ndarray]) -> None:
    """Examples whose labels are made of the right ones, (T,), and the number of classes."""

    def example(self: Any, item: objective.Item, key: objective.ExampleKey) -> Example:
        right = original(self, item, key)
        several = None if right.classes is None else np.roll(right.classes, 1)
        found = labels(right.labels, len(self.tokenizer.labels))
        return replace(right, labels=found, classes=several)

    original = patch(classes.SequenceClassification, "example", example)


@fault
def class_off_by_one() -> None:
    plant_class(lambda right, count: np.where(right < 0, right, (right + 1) % count))


@fault
def class_learned_at_every_token() -> None:
    plant_class(lambda right, count: np.full_like(right, right[0]))


def plant_tags(labels: Callable[[np.ndarray], np.ndarray]) -> None:
    """Texts in which tags stand elsewhere: labels are made of the right ones, (T,)."""

    def encode(self: Any, *arguments: Any) -> Any:
        return [
            record._replace(labels=labels(np.array(record.labels)).tolist())
            for record in original(self, *arguments)
        ]

    original = patch(tags.TokenClassification, "encode", encode)


@fault
def tags_one_token_late() -> None:
    plant_tags(lambda right: np.append(IGNORE_INDEX, right[:-1]))


@fault
def tag_on_last_token() -> None:
    def places(*arguments: Any) -> list[list[int]]:
        return [own[::-1] for own in original(*arguments)]

    original = patch(tags, "places", places)


@fault
def tag_on_every_token() -> None:
    def example(self: Any, item: objective.Item, key: objective.ExampleKey) -> Example:
        right = original(self, item._replace(reference=None), key)
        last, labels = IGNORE_INDEX, right.labels.copy()
        for i, label in enumerate(labels):
            last = labels[i] = last if label == IGNORE_INDEX else label
        return replace(right, labels=labels)

    original = patch(tags.TokenClassification, "example", example)


@fault
def tags_lost_where_texts_are_cut() -> None:
    def items(self: Any, record: Any) -> list[objective.Item]:
        [item] = original(self, record)
        return [item._replace(ids=item.ids[:12], labels=item.labels[:12])]

    original = patch(tags.TokenClassification, "items", items)


@fault
def entities_averaged_per_batch() -> None:
    def update(self: entities.Entities, *rows: Any) -> None:
        original(self, *rows)
        counts = self.counts.sum(0)
        self.means = [*getattr(self, "means", []), 2 * counts[0] / counts[1:].sum()]
        self.counts = torch.zeros_like(self.counts)

    def compute(self: entities.Entities) -> dict[str, Tensor]:
        means: Any = self.means
        return {name: torch.stack(means).mean() for name in self.names}

    original = patch(entities.Entities, "update", update)
    patch(entities.Entities, "compute", compute)


@fault
def long_sequences_cut_off() -> None:
    def collate(examples: list[Example], pad_id: int, **options: Any) -> Batch:
        cut = [replace(e, input_ids=e.input_ids[:9], labels=e.labels[:9]) for e in examples]
        return original(cut, pad_id, **options)

    original = patch(data, "collate", collate)


def plant_windows(start: int, step: int) -> None:
    """Windows that begin elsewhere."""

    def items(self: Any, record: objective.Record) -> list[objective.Item]:
        ids = np.array([self.special.bos, *record["text"], self.special.eos])
        size = self.window_tokens
        return [
            objective.Item(ids[i : i + size + 1]) for i in range(start, len(ids) - 1, size + step)
        ]

    patch(objective.CausalLM, "items", items)


@fault
def windows_lose_a_token() -> None:
    def windows(self: Any, length: int) -> Iterator[tuple[int, int, int]]:
        for begin, own, end in original(self, length):
            yield begin + (begin > 0), own + (begin > 0), end

    plant_windows(0, 1)
    original = patch(objective.Windowed, "windows", windows)  # of other tasks


@fault
def windows_overlap() -> None:
    plant_windows(0, -1)


@fault
def last_step_dropped() -> None:
    def windows(self: epoch.EpochBatches, *arguments: Any, **options: Any) -> Iterator[Any]:
        for window in original(self, *arguments, **options):
            is_last = window.begin + window.ends[-1] == len(self.order)
            kept = window.ends[:-1] if is_last else window.ends
            yield window._replace(ends=kept or window.ends)

    original = patch(epoch.EpochBatches, "windows", windows)


@fault
def never_shuffled() -> None:
    original = patch(sampler.GlobalBatches, "epoch", lambda self, epoch: original(self, 0))


# Answers of conversations


def plant_start(shift: int) -> None:
    """Answers that begin so many characters on."""

    def start(self: laid_out.Layout, *arguments: Any) -> int | None:
        begin = original(self, *arguments)
        return None if begin is None else begin + shift

    original = patch(laid_out.Layout, "_start", start)


@fault
def first_answer_token_not_learned() -> None:
    plant_start(1)


@fault
def prompt_token_learned() -> None:
    plant_start(-1)


@fault
def end_of_turn_not_learned() -> None:
    def items(self: chat.Chat, record: chat.Chatted) -> list[objective.Item]:
        found = original(self, record)
        for item in found:
            assert item.labels is not None
            item.labels[item.labels == self.special.eos] = IGNORE_INDEX
        return found

    original = patch(chat.Chat, "items", items)


@fault
def template_swallows_a_space() -> None:
    def render(self: ChatTemplate, messages: Any, *arguments: Any, **options: Any) -> Rendered:
        written = [{**m, "content": m["content"].replace(" ", "", 1)} for m in messages]
        return original(self, written, *arguments, **options)

    original = patch(ChatTemplate, "render", render)


# Loss


@fault
def loss_in_half_precision() -> None:
    def target_sums(
        hidden: Tensor,
        head: torch.nn.Module,
        targets: Tensor,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
    ) -> TargetSums:
        logits = head(hidden)
        losses = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")
        if torch.is_autocast_enabled("cpu"):
            losses = losses.bfloat16()
        return TargetSums(losses.sum(), (logits.argmax(-1) == targets).sum())

    patch(module, "target_sums", target_sums)


@fault
def ignore_index_is_a_token() -> None:
    def target_sums(
        hidden: Tensor, head: torch.nn.Module, targets: Tensor, *_: float
    ) -> TargetSums:
        logits = head(hidden)
        losses = F.cross_entropy(logits, targets, ignore_index=7, reduction="none")
        return TargetSums(losses.double().sum(), (logits.argmax(-1) == targets).sum())

    patch(module, "target_sums", target_sums)


@fault
def label_smoothing_over_padding() -> None:
    def target_sums(
        self: TokenModule, batch: Batch, label_smoothing: float = 0.0, z_loss: float = 0.0
    ) -> TargetSums:
        sums = original(self, batch, label_smoothing, z_loss)
        padding = batch.labels.numel() - batch.input_count
        even = math.log(len(next(iter(self.head.parameters()))))
        return replace(sums, loss=sums.loss + label_smoothing * padding * even)

    original = patch(TokenModule, "target_sums", target_sums)


@fault
def label_smoothing_left_out() -> None:
    def target_sums(self: TokenModule, batch: Batch, *_: float) -> TargetSums:
        return original(self, batch)

    original = patch(TokenModule, "target_sums", target_sums)


@fault
def hits_over_padding() -> None:
    def target_sums(self: TokenModule, batch: Batch, *options: float) -> TargetSums:
        sums = original(self, batch, *options)
        return replace(sums, correct=sums.correct + batch.labels.numel() - batch.input_count)

    original = patch(TokenModule, "target_sums", target_sums)


@fault
def empty_micro_batch_is_nan() -> None:
    def target_sums(*arguments: Any, **options: Any) -> TargetSums:
        sums = original(*arguments, **options)
        count = len(arguments[2])
        return replace(sums, loss=sums.loss / count * count if count else sums.loss / 0 * 0)

    original = patch(module, "target_sums", target_sums)


# Step


@fault
def mean_per_micro_batch() -> None:
    def training_step(self: TokenModule, micro_batches: list[Batch], batch_idx: int) -> None:
        count = sum(b.target_count for b in micro_batches)
        weights = {
            id(b): count / max(1, b.target_count) / len(micro_batches) for b in micro_batches
        }

        def target_sums(
            self: TokenModule, batch: Batch, label_smoothing: float = 0.0, z_loss: float = 0.0
        ) -> TargetSums:
            sums = sums_of(self, batch, label_smoothing, z_loss)
            return replace(sums, loss=sums.loss * weights.get(id(batch), 1.0))

        sums_of = TokenModule.target_sums
        TokenModule.target_sums = target_sums
        try:
            original(self, micro_batches, batch_idx)
        finally:
            TokenModule.target_sums = sums_of

    original = patch(TokenModule, "training_step", training_step)


@fault
def sum_instead_of_mean() -> None:
    def target_sums(self: TokenModule, batch: Batch, *options: float) -> TargetSums:
        sums = original(self, batch, *options)
        is_step = torch.is_grad_enabled() and self._trainer is not None and self.trainer.training
        return replace(sums, loss=sums.loss * batch.target_count) if is_step else sums

    original = patch(TokenModule, "target_sums", target_sums)


@fault
def mean_per_rank() -> None:
    def local(self: TokenModule, value: Tensor, group: Any = None) -> Tensor:
        return value * self.trainer.world_size  # DDP's mean over ranks is all that is left

    patch(TokenModule, "_sum_over_ranks", local)


@fault
def clipped_after_each_micro_batch() -> None:
    def manual_backward(self: TokenModule, loss: Tensor, *arguments: Any, **options: Any) -> None:
        original(self, loss, *arguments, **options)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)

    original = patch(TokenModule, "manual_backward", manual_backward)


@fault
def clip_norm_grows_with_ranks() -> None:
    def on_before_optimizer_step(self: TokenModule, optimizer: Any) -> None:
        if self.clip_norm is not None:
            self.clip_norm *= self.trainer.world_size
        original(self, optimizer)

    original = patch(TokenModule, "on_before_optimizer_step", on_before_optimizer_step)


# Evaluation


@fault
def metrics_not_reset() -> None:
    patch(evaluation_metrics.EvaluationMetrics, "reset", lambda self: None)


@fault
def end_of_sequence_never_matches() -> None:
    def update(self: metrics.ExactMatch, predictions: list[str], references: list[str]) -> None:
        original(self, predictions, [f"{reference}." for reference in references])

    original = patch(metrics.ExactMatch, "update", update)


@fault
def bleu_averaged_per_batch() -> None:
    def update(self: text_metrics.Bleu, predictions: list[str], references: list[str]) -> None:
        if predictions:
            score = self.bleu.corpus_score(predictions, [references]).score
            self.correct += int(1000 * score)
            self.lengths += 1

    patch(text_metrics.Bleu, "update", update)
    patch(text_metrics.Bleu, "compute", lambda self: self.correct[0] / self.lengths[0])


@fault
def macro_f1_averaged_per_batch() -> None:
    def update(self: macro_f1.MacroF1, logits: Tensor, targets: Tensor) -> None:
        original(self, logits, targets)
        self.means = [*getattr(self, "means", []), float(compute(self))]

    original = patch(macro_f1.MacroF1, "update", update)
    compute = patch(macro_f1.MacroF1, "compute", lambda self: torch.tensor(self.means).mean())


@fault
def accuracy_averaged_per_batch() -> None:
    class MeanOfMeans(Ratio):
        def update(self, total: Tensor | int, count: Tensor | int) -> None:
            super().update(torch.as_tensor(total).double() / max(1, int(count)), 1)

    def faulty(self: evaluation_metrics.EvaluationMetrics, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        self.accuracy = MeanOfMeans(whole=False)

    original = patch(evaluation_metrics.EvaluationMetrics, "__init__", faulty)


@fault
def accuracy_over_padding() -> None:
    def evaluation_step(self: TokenModule, batch: Batch, found: Any, *, keep: bool) -> None:
        original(self, batch, found, keep=keep)
        found.accuracy.update(0, batch.labels.numel() - batch.target_count)

    original = patch(TokenModule, "evaluation_step", evaluation_step)


@fault
def evaluation_repeats_examples() -> None:
    def cut(indices: np.ndarray, lengths: np.ndarray, topology: Any) -> list[list[int]]:
        repeated = indices[: -len(indices) % topology.ranks]
        return original(np.append(indices, repeated), lengths, topology)

    original = patch(data, "cut", cut)


@fault
def last_batch_dropped() -> None:
    patch(data.EvaluationBatches, "__len__", lambda self: len(self.micro_batches) - 1)


@fault
def metrics_of_rank_0_only() -> None:
    def local(self: Ratio, *, whole: bool = True) -> None:
        original(self, whole=whole)
        self._reductions = {"total": lambda parts: parts[0], "count": lambda parts: parts[0]}

    original = patch(Ratio, "__init__", local)
