"""The LightningModule: one optimizer step over a global batch, and exact evaluation.

Nothing is averaged per micro-batch or per rank. The loss of each target token is divided once, by
the number of target tokens of the whole global batch on all ranks, so how the batch was cut
(the topology) leaves no trace in the gradient.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import Metric

from everytoken.batch import Batch, select
from everytoken.decoding.generate import Decoding, Prediction, first_tokens, generate
from everytoken.errors import UserError
from everytoken.model.precision import without_autocast
from everytoken.tokenizer.special import SpecialIds
from everytoken.training.contract import check_gradient, check_hidden
from everytoken.training.distributed import (
    HostCopy,
    adds_by_layout,
    gathered,
    shard,
    whole,
    without_gradient_exchange,
)
from everytoken.training.loss import TargetSums, target_sums
from everytoken.training.metrics import EvaluationMetrics
from everytoken.training.optim import parameter_groups
from everytoken.training.seeding import seed_step


class TokenModule(L.LightningModule):
    """Trains and evaluates a model of token sequences.

    The model is any `nn.Module` that keeps this contract:

    - `model(batch)` takes a `Batch` and returns hidden states (M, D), one per target token, in the
      order of `batch.targets`;
    - `model.head` maps hidden states (M, D) to logits (M, V);
    - `model.computes_on_padding` is False if its layers skip padded positions (True if absent).

    `python -m audit` checks it, and that the hidden states depend on what they may depend on.

    Args:
        model: see above.
        optimizer: makes an optimizer from parameter groups.
        parameter_groups: what the optimizer is given of a model, see `optim.parameter_groups`.
        scheduler: makes a schedule, stepped after each optimizer step, from an optimizer and the
            number of optimizer steps of the run (`total_steps`).
        seed: of dropout, see `seed_step`.
        label_smoothing: for training; evaluation is without.
        z_loss: for training, see `linear_cross_entropy`.
        clip_norm: gradients are scaled down to this norm; None for no limit.
        special: ids of the special tokens.
        decode: token ids → text, for metrics of texts.
        max_new_tokens: how far evaluation generates, for exact match; None for no generation.
        decoding: how it generates.
        more_metrics: further metrics of evaluation by name, each updated with logits (M, V) and
            targets (M,) of target tokens; or, if it is a `TextMetric`, with generated texts.
        byte_lengths: bytes of text that each id stands for, for bits per byte; None for none.

    Raises:
        UserError: in a step, if the model doesn't keep the contract or the loss isn't finite.
        ValueError: a `TextMetric` without generation.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        scheduler: Callable[..., LRScheduler],
        total_steps: int,
        seed: int,
        label_smoothing: float,
        z_loss: float,
        clip_norm: float | None,
        special: SpecialIds,
        decode: Callable[[list[int]], str],
        max_new_tokens: int | None,
        decoding: Decoding,
        more_metrics: dict[str, Metric],
        byte_lengths: Sequence[int] | None = None,
        parameter_groups: Callable[[nn.Module], list[dict[str, Any]]] = parameter_groups,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # a step has several backwards and one division
        self.model = model
        self.make_optimizer = optimizer
        self.parameter_groups = parameter_groups
        self.make_scheduler = scheduler
        self.total_steps = total_steps
        self.seed = seed
        self.label_smoothing = label_smoothing
        self.z_loss = z_loss
        self.clip_norm = clip_norm
        self.special = special
        self.decode = decode
        self.max_new_tokens = max_new_tokens
        self.decoding = decoding
        self.gradient_norm = torch.zeros(())
        self.share = torch.ones(())
        """What summed losses are multiplied by before backward."""
        self.loss_sum = torch.zeros(())
        """The loss of this rank's target tokens in the step at hand."""
        self.at_work: Batch | None = None
        """The micro-batch that the model reads or has read; None while the optimizer works."""
        self.when_not_finite = self._refuse
        """Called before a step whose gradient isn't finite, on all ranks; it may raise."""
        self.votes: list[int] = []
        """What this rank adds to the exchange of counts of the next step, see `StopOnRequest`."""
        self.vote_counts: HostCopy | None = None
        """The votes of all ranks in the last step; None if there were none."""
        self.predictions: list[Prediction] = []
        self.texts: dict[int, str] = {}
        """What the last evaluation generated, by the index of the example; this rank's part."""
        generates = max_new_tokens is not None
        self.val_metrics, self.test_metrics = (
            EvaluationMetrics(more_metrics, generates=generates, byte_lengths=byte_lengths)
            for _ in range(2)
        )

    @property
    def head(self) -> nn.Module:
        """The model's head."""
        head = self.model.head
        assert isinstance(head, nn.Module)
        return head

    def configure_model(self) -> None:
        """Shard the model if the strategy is FSDP; called by the trainer."""
        if self.device_mesh is not None:
            shard(self.model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer and its schedule, stepped after each of its steps."""
        optimizer = self.make_optimizer(self.parameter_groups(self.model))
        scheduler = self.make_scheduler(optimizer, total_steps=self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_train_batch_start(self, batch: list[Batch], batch_idx: int) -> None:
        """Let DDP lay out its exchange before the first step, by a backward that doesn't count.

        It orders gradients as they came in the first backward since the start of the process, and
        among three ranks or more they are added in another order if they lie elsewhere: the first
        step of a resumed run would not be the one of a run that was never stopped, bit for bit.
        """
        if batch_idx == 0 and adds_by_layout(self.trainer.strategy):
            kept = [buffer.clone() for buffer in self.model.buffers()]  # running means, say
            self.manual_backward(0 * self.training_sums(batch[-1]).loss)
            self.model.zero_grad()
            for buffer, value in zip(self.model.buffers(), kept, strict=True):
                buffer.copy_(value)

    def training_step(self, micro_batches: list[Batch], batch_idx: int) -> None:
        """One optimizer step over this rank's part of a global batch."""
        seed_step(self.seed, self.trainer.global_step, self.trainer.global_rank)
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(scheduler, LRScheduler)
        assert not isinstance(scheduler, ReduceLROnPlateau)  # it would need a metric at each step
        counts = self._sum_over_ranks(
            torch.tensor([sum(b.target_count for b in micro_batches), *self.votes])
        )
        target_count = counts[0]
        self.vote_counts = HostCopy(counts[1:]) if self.votes else None
        # DDP and FSDP will average gradients over the ranks: the factor makes that a sum.
        self.share = self.trainer.world_size / target_count.clamp(min=1)
        total = torch.zeros(2, device=self.device, dtype=torch.float64)
        for i, batch in enumerate(micro_batches):
            is_last = i == len(micro_batches) - 1
            with nullcontext() if is_last else without_gradient_exchange(self.trainer.strategy):
                sums = self.training_sums(batch)
                # With 0 * loss, a loss that isn't finite makes the gradient so, on all ranks.
                self.manual_backward(sums.loss * (self.share + 0 * sums.loss.detach()))
            total += torch.stack((sums.loss.detach(), sums.correct.double()))
        self.loss_sum, self.at_work = total[0], None
        optimizer.step()
        optimizer.zero_grad()
        if is_logged_step(self.trainer):
            loss, accuracy = self._sum_over_ranks(total) / target_count.clamp(min=1)
            self.log_dict(
                {
                    "step": float(self.trainer.global_step),
                    "train/loss": loss.float(),
                    "train/accuracy": accuracy.float(),
                    "train/gradient_norm": self.gradient_norm,
                    "train/learning_rate": scheduler.get_last_lr()[0],
                }
            )
        scheduler.step()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Outside of autocast: products follow forward's dtypes, the rest isn't to be rounded."""
        with without_autocast(loss):
            loss.backward(*args, **kwargs)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip and check here: gradients are complete, exchanged and (in fp16) unscaled."""
        limit = float("inf") if self.clip_norm is None else self.clip_norm
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit).detach()
        self.gradient_norm = whole(norm)
        if not self.gradient_norm.isfinite():  # the only wait for the device between logged steps
            optimizer.zero_grad()  # so the optimizer leaves the weights and its own state alone
            self.when_not_finite()

    def _refuse(self) -> None:
        raise UserError(
            f"the gradient's norm is {float(self.gradient_norm)} at step "
            f"{self.trainer.global_step + 1}: see with python -m audit if the model makes it so "
            "from the start, or lower optimizer.lr"
        )

    def hidden(self, batch: Batch) -> Tensor:
        """The model's hidden states (M, D) of the target tokens of a micro-batch.

        Raises:
            UserError: the model returned something else.
        """
        self.at_work = batch
        return check_hidden(self.model, batch, self.model(batch))

    def target_sums(
        self, batch: Batch, label_smoothing: float = 0.0, z_loss: float = 0.0
    ) -> TargetSums:
        """Loss and hits of the model over the target tokens of a micro-batch."""
        hidden = self.hidden(batch)
        sums = target_sums(hidden, self.head, batch.targets, label_smoothing, z_loss)
        check_gradient(self.model, sums.loss)
        return sums

    def training_sums(self, batch: Batch) -> TargetSums:
        """The same as training wants them."""
        return self.target_sums(batch, self.label_smoothing, self.z_loss)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one micro-batch of the validation split."""
        self._evaluate(batch, self.val_metrics, keep=batch_idx == 0 and not batch.is_filler)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one micro-batch of the test split."""
        self._evaluate(batch, self.test_metrics, keep=batch_idx == 0 and not batch.is_filler)

    def on_validation_epoch_start(self) -> None:
        """Forget the texts of the evaluation before."""
        self.texts = {}

    def on_test_epoch_start(self) -> None:
        """Forget the texts of the evaluation before."""
        self.texts = {}

    def on_validation_epoch_end(self) -> None:
        """Divide, once."""
        self._log_metrics("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Divide, once."""
        self._log_metrics("test", self.test_metrics)

    def _evaluate(self, batch: Batch, metrics: EvaluationMetrics, *, keep: bool) -> None:
        hidden = self.hidden(batch)
        sums = target_sums(hidden, self.head, batch.targets)
        metrics.update_sums(sums, batch.targets)
        if metrics.reads_logits and batch.target_count:
            metrics.update_tokens(self.head(hidden).float(), batch.targets)
        if metrics.exact_match is None and not keep:
            return
        references = select(batch.labels, batch.is_target)
        if metrics.exact_match is not None:
            assert self.max_new_tokens is not None
            predictions = self.generate(first_tokens(batch), self.max_new_tokens)
            references = [[t for t in row if t != self.special.eos] for row in references]
            if batch.is_filler:
                predictions, references = [], []
            metrics.exact_match.update(predictions, references)
            texts = [*map(self.decode, predictions)]
            metrics.update_texts(texts, [*map(self.decode, references)])
            if batch.indices is not None:
                self.texts.update(zip(batch.indices.tolist(), texts, strict=True))
        else:
            best = torch.zeros_like(batch.labels)
            best[batch.is_target] = self.head(hidden).argmax(-1)
            predictions = select(best, batch.is_target)
        if keep:
            sources = select(*batch.first_side)
            rows = zip(sources, references, predictions, strict=True)
            self.predictions = [Prediction(*row) for row in rows]

    def _log_metrics(self, split: str, metrics: EvaluationMetrics) -> None:
        values = {f"{split}/{name}": value for name, value in metrics.values().items()}
        self.log_dict({"step": float(self.trainer.global_step), **values})
        metrics.reset()

    def generate(self, prompts: Batch, max_new_tokens: int) -> list[list[int]]:
        """Continue each prompt, see `decode.generate`."""
        self.at_work = prompts
        with gathered(self.model):
            return generate(
                self.model,
                self.head,
                prompts,
                self.decoding,
                end_id=self.special.eos,
                max_new_tokens=max_new_tokens,
            )

    def _sum_over_ranks(self, value: Tensor) -> Tensor:
        value = value.to(self.device)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(value)  # the strategy's own would wait at a barrier too
        return value


def is_logged_step(trainer: L.Trainer) -> bool:
    """True if the optimizer step that was just made is one whose values are logged."""
    every: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
    return trainer.global_step % every == 0
