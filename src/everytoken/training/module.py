"""The LightningModule: one optimizer step over a global batch.

Nothing is averaged per micro-batch or per rank. The loss of each target token is divided once, by
the number of target tokens of the whole global batch on all ranks, so how the batch was cut
(the topology) leaves no trace in the gradient.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from everytoken.batch import Batch
from everytoken.decoding.generate import Decoding
from everytoken.errors import UserError
from everytoken.model.precision import without_autocast
from everytoken.runtime.console import invoked
from everytoken.runtime.data_ranks import data_ranks
from everytoken.tokenizer.special import SpecialIds
from everytoken.training.adapted import Base, complete, keep_only
from everytoken.training.answers import Limit
from everytoken.training.buffers import KeptBuffers, share_buffers
from everytoken.training.contract import check_batches, check_sums
from everytoken.training.deferred import Deferred
from everytoken.training.distributed import (
    HostCopy,
    adds_by_layout,
    clip_gradients,
    shard,
    without_gradient_exchange,
)
from everytoken.training.evaluation import EvaluationModule
from everytoken.training.loss import TargetSums, target_sums
from everytoken.training.optim import make_optimizer, parameter_groups
from everytoken.training.schedule import constant, schedule_of
from everytoken.training.seeding import seed_step
from everytoken.training.step_state import NonFiniteHook


class TokenModule(EvaluationModule):
    """Trains and evaluates a model of token sequences.

    The model is any `nn.Module` that keeps this contract:

    - `model(batch)` takes a `Batch` and returns hidden states (M, D), one per target token, in the
      order of `batch.targets`;
    - `model.head` maps hidden states (M, D) to logits (M, V);
    - `model.computes_on_padding` is False if its layers skip padded positions (True if absent).

    `python -m audit` checks it, and that the hidden states depend on what they may depend on.

    A loss of one's own is a subclass that overrides `target_sums`; if it has settings, its
    constructor is `def __init__(self, *, weight: float, **parts: Any)` and hands on the parts.

    Args:
        model: see above.
        optimizer: makes an optimizer from parameter groups and, if it takes it, the `model`.
        parameter_groups: what the optimizer is given of a model, see `optim.parameter_groups`.
        scheduler: makes a schedule, stepped after each optimizer step, from an optimizer and, if
            it takes it, the number of optimizer steps of the run (`total_steps`); the default is
            no schedule.
        seed: of dropout, see `seed_step`.
        label_smoothing: for training; evaluation is without.
        z_loss: for training, see `linear_cross_entropy`.
        clip_norm: gradients are scaled down to this norm; None for no limit.
        special, decode, max_new_tokens, decoding, more_metrics, counts_bytes: see
            `EvaluationModule`.

    Raises:
        UserError: in a step, if the model doesn't keep the contract or the loss isn't finite.
        ValueError: a `TextMetric` without generation.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler] = constant,
        total_steps: int = 1,
        seed: int = 0,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        clip_norm: float | None = None,
        special: SpecialIds,
        decode: Callable[[list[int]], str],
        max_new_tokens: Limit | None = None,
        decoding: Decoding | None = None,
        more_metrics: Mapping[str, Metric] = MappingProxyType({}),
        counts_bytes: bool = False,
        parameter_groups: Callable[[nn.Module], list[dict[str, Any]]] = parameter_groups,
    ) -> None:
        super().__init__(
            model=model,
            special=special,
            decode=decode,
            max_new_tokens=max_new_tokens,
            decoding=decoding,
            more_metrics=more_metrics,
            counts_bytes=counts_bytes,
        )
        self.automatic_optimization = False  # a step has several backwards and one division
        self.make_optimizer = optimizer
        self.parameter_groups = parameter_groups
        self.make_scheduler = scheduler
        self.total_steps = total_steps
        self.seed = seed
        self.label_smoothing = label_smoothing
        self.z_loss = z_loss
        self.clip_norm = clip_norm
        self.base: Base | None = None
        """What is left out of checkpoints, if only adapters are trained."""
        self.deferred: Deferred | None = None
        """What is to fill the model, if it is built without memory."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Over a base, leave that out."""
        if self.base is not None:
            keep_only(self, checkpoint, self.base)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Over a base, put that in again."""
        if self.base is not None:
            complete(self, checkpoint, self.base)

    def configure_model(self) -> None:
        """Shard the model if the strategy is FSDP; called by the trainer."""
        if self.device_mesh is not None:
            shard(self.model, self.device_mesh, self.deferred)
            self.deferred = None

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer and its schedule, stepped after each of its steps."""
        groups = self.parameter_groups(self.model)
        optimizer = make_optimizer(self.make_optimizer, self.model, groups)
        scheduler = schedule_of(self.make_scheduler, optimizer, self.total_steps)
        # The interval is for those who watch; the schedule is stepped by hand.
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_train_batch_start(self, batch: list[Batch] | Batch, batch_idx: int) -> None:
        """Let DDP lay out its exchange before the first step, by a backward that doesn't count.

        It orders gradients as they came in the first backward since the start of the process, and
        among three ranks or more they are added in another order if they lie elsewhere: the first
        step of a resumed run would not be the one of a run that was never stopped, bit for bit.
        """
        if batch_idx == 0 and adds_by_layout(self.trainer.strategy):
            kept = KeptBuffers(self.model)
            self.manual_backward(0 * self.training_sums(check_batches(batch)[-1]).loss)
            self.model.zero_grad()
            kept.restore(self.model)

    def training_step(self, batch: list[Batch] | Batch, batch_idx: int) -> None:
        """One optimizer step over this rank's part of a global batch, its micro-batches."""
        micro_batches = check_batches(batch)
        ranks = data_ranks(self.trainer)
        seed_step(self.seed, self.trainer.global_step, ranks.rank)
        target_count = self._count_targets(micro_batches)
        # DDP and FSDP will average gradients over the ranks: the factor makes that a sum.
        scale = self.step.gradient_scale = ranks.size / target_count.clamp(min=1)
        totals = torch.zeros(2, device=self.device, dtype=torch.float64)  # of loss and hits
        for i, micro_batch in enumerate(micro_batches):
            is_last = i == len(micro_batches) - 1
            with nullcontext() if is_last else without_gradient_exchange(self.trainer.strategy):
                sums = self.training_sums(micro_batch)
                # With 0 * loss, a loss that isn't finite makes the gradient so, on all ranks.
                self.manual_backward(sums.loss * (scale + 0 * sums.loss.detach()))
            totals += torch.stack((sums.loss.detach(), sums.correct.double()))
        self.step.loss_sum, self.step.batch = totals[0], None
        optimizer, scheduler = self._optimizer_and_schedule()
        optimizer.step()
        optimizer.zero_grad()
        share_buffers(self.model)  # before averages, validation and checkpoints take them
        self.log("step", float(self.trainer.global_step))  # always: callbacks name files by it
        if is_logged_step(self.trainer):
            totals = self._sum_over_ranks(totals, ranks.group)
            self._log_step(totals / target_count.clamp(min=1), scheduler)
        scheduler.step()

    def training_sums(self, batch: Batch) -> TargetSums:
        """Loss and hits of a micro-batch as training wants them.

        Raises:
            UserError: nothing can be learned from the loss.
        """
        sums = self.target_sums(batch, self.label_smoothing, self.z_loss)
        return check_sums(self.model, sums)

    def target_sums(
        self, batch: Batch, label_smoothing: float = 0.0, z_loss: float = 0.0
    ) -> TargetSums:
        """Loss and hits of the model over the target tokens of a micro-batch: sums, no means.

        To be overridden for another loss, see `TargetSums.of`.
        """
        hidden = self.hidden(batch)
        return target_sums(hidden, self.head, batch.targets, label_smoothing, z_loss)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Outside of autocast: products follow forward's dtypes, the rest isn't to be rounded."""
        with without_autocast(loss):
            loss.backward(*args, **kwargs)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip and check here: gradients are complete, exchanged and (in fp16) unscaled."""
        limit = float("inf") if self.clip_norm is None else self.clip_norm
        self.step.gradient_norm = clip_gradients(self.model, limit)
        if not self.step.gradient_norm.isfinite():  # the only wait for the device between logs
            optimizer.zero_grad()  # so the optimizer leaves the weights and its own state alone
            self.on_nonfinite_gradient()

    def on_nonfinite_gradient(self) -> None:
        """What becomes of a step whose gradient isn't finite: callbacks with this hook decide.

        Raises:
            UserError: no callback has it.
        """
        callbacks: list[L.Callback] = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        hooks = [callback for callback in callbacks if isinstance(callback, NonFiniteHook)]
        if not hooks:
            raise UserError(
                f"the gradient's norm is {float(self.step.gradient_norm)} at step "
                f"{self.trainer.global_step + 1}: see with {invoked('audit')} if the model makes "
                "it so from the start, or lower optimizer.lr"
            )
        for callback in hooks:
            callback.on_nonfinite_gradient(self.trainer, self)

    def _count_targets(self, micro_batches: list[Batch]) -> Tensor:
        """() target tokens of the global batch; votes of callbacks are counted along with them."""
        own = sum(batch.target_count for batch in micro_batches)
        counts = self._sum_over_ranks(torch.tensor([own, *self.step.votes]))
        self.step.vote_counts = HostCopy(counts[1:]) if self.step.votes else None
        return counts[0] // data_ranks(self.trainer).copies

    def _optimizer_and_schedule(self) -> tuple[LightningOptimizer, LRScheduler]:
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(scheduler, LRScheduler)
        return optimizer, scheduler

    def _log_step(self, means: Tensor, scheduler: LRScheduler) -> None:
        """Log loss and accuracy, (2,), and what the optimizer did."""
        self.log_dict(
            {
                "train/loss": means[0].float(),
                "train/accuracy": means[1].float(),
                "train/gradient_norm": self.step.gradient_norm,
                "train/learning_rate": scheduler.get_last_lr()[0],
            }
        )

    def _sum_over_ranks(self, value: Tensor, group: Any = None) -> Tensor:
        value = value.to(self.device)
        if self.trainer.world_size > 1:
            # The strategy's own would wait at a barrier too.
            torch.distributed.all_reduce(value, group=group)
        return value


def is_logged_step(trainer: L.Trainer) -> bool:
    """True if the optimizer step that was just made is one whose values are logged."""
    every: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
    return trainer.global_step % every == 0
