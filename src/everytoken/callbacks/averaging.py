"""Averages of the weights: what is validated and kept instead of the weights that are trained."""

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from everytoken.errors import UserError
from everytoken.run.checkpoint_file import CheckpointFiles
from everytoken.runtime.console import warn

SHARE = 0.01
"""Of the first weights in an average: more of it deserves a warning."""


class AveragedWeights(L.Callback):
    """The mean of the weights after each step, and nothing before there is one.

    Until the first update the trained weights are validated and kept; from then on it is their
    average, and checkpoints hold both: `checkpoint=best` and `checkpoint=raw-best`. What isn't
    trained, and what isn't a float (a buffer that counts, say), is as it is in training. Of weights
    that are sharded each rank averages its shards.

    Args:
        update_every_n_steps: optimizer steps between updates, at least 1.
        update_starting_at_step: optimizer steps before the first update.
        device: where the average is; None for the model's own, as it always is of shards.
        use_buffers: True to average buffers too (running means, say).

    Raises:
        ValueError: numbers that make no sense.
        UserError: when the fit begins, if it would end before the first update.
    """

    def __init__(
        self,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        device: torch.device | str | int | None = None,
        use_buffers: bool = True,
    ) -> None:
        start = update_starting_at_step or 0
        for name, value, least in (
            ("update_every_n_steps", update_every_n_steps, 1),
            ("update_starting_at_step", start, 0),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")
        self.update_every_n_steps = update_every_n_steps
        self.update_starting_at_step = start
        self.device = device
        self.use_buffers = use_buffers
        self.averaged: dict[str, Tensor] = {}
        self.updates = 0
        self.latest_step = 0

    @property
    def has_begun(self) -> bool:
        """True if there is an average."""
        return self.updates > 0

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After which steps; after no epoch, for the training stream has no end."""
        if step_idx is None or step_idx < self.update_starting_at_step:
            return False
        return step_idx % self.update_every_n_steps == 0

    def average(self, averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        """Update the averaged values in place, of tensors of one dtype.

        Args:
            averaged: of `count` steps.
            current: of the step after, in the same order and shapes.
            count: () int64, at least 1.
        """
        get_swa_multi_avg_fn()(averaged, current, count)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse what would never act."""
        if 0 <= trainer.max_steps <= self.update_starting_at_step:
            raise UserError(
                f"{type(self).__name__} would never begin: update_starting_at_step="
                f"{self.update_starting_at_step} is not before the last of {trainer.max_steps} "
                "steps: lower it"
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Take the weights into their average."""
        step = trainer.global_step
        if step == self.latest_step or not self.should_update(step - 1):
            return
        self.latest_step = step
        if not self.has_begun:
            self._begin(pl_module)
        else:
            groups: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
            for averaged, current in self._pairs(trainer, pl_module):
                group = groups.setdefault((averaged.device, averaged.dtype), ([], []))
                group[0].append(averaged)
                group[1].append(current.to(averaged.device))
            for averages, currents in groups.values():
                self.average(averages, currents, torch.tensor(self.updates))
        self.updates += 1

    @torch.no_grad()
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the average in the model's place, if there is one."""
        for averaged, current in self._pairs(trainer, pl_module):
            current.copy_(averaged)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate the average."""
        self._swap(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Train on with the weights."""
        self._swap(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """In the names of Lightning's `WeightAveraging`, as in checkpoints of older versions."""
        return {"latest_update_step": self.latest_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        self.latest_step = state_dict["latest_update_step"]

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average, and beside it the weights."""
        if not self.has_begun:
            return
        names = _names(pl_module)
        trained = checkpoint["state_dict"]
        averaged = {name: self.averaged.get(names[name], trained[name]) for name in trained}
        checkpoint["state_dict"], checkpoint["current_model_state"] = averaged, trained
        checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self.updates)}

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with both; where no average had begun there is nothing to take up."""
        if "averaging_state" not in checkpoint:
            return
        self.updates = int(checkpoint["averaging_state"]["n_averaged"])
        self._begin(pl_module)  # the average is what was loaded
        trained = {"state_dict": checkpoint["current_model_state"]}
        trainer.strategy.load_model_state_dict(trained, strict=pl_module.strict_loading)

    @torch.no_grad()
    def _begin(self, module: nn.Module) -> None:
        """Have the weights as they are for an average."""
        self.averaged = {}
        names, state = _names(module), module.state_dict(keep_vars=True)
        for name in dict.fromkeys(names.values()):
            tensor = state[name]
            wanted = tensor.requires_grad if isinstance(tensor, nn.Parameter) else self.use_buffers
            if wanted and tensor.is_floating_point():
                home = None if isinstance(tensor, DTensor) else self.device
                self.averaged[name] = tensor.detach().to(home or tensor.device, copy=True)

    def _pairs(self, trainer: L.Trainer, module: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """Each average and its weights, of shards this rank's, to be changed in place."""
        if isinstance(files := trainer.strategy.checkpoint_io, CheckpointFiles):
            files.wait_until_copied()
        state = module.state_dict(keep_vars=True)  # FSDP shards what it had gathered for this
        return [(_own(averaged), _own(state[name])) for name, averaged in self.averaged.items()]

    @torch.no_grad()
    def _swap(self, trainer: L.Trainer, module: nn.Module) -> None:
        for averaged, current in self._pairs(trainer, module):
            kept = averaged.clone()
            averaged.copy_(current)
            current.copy_(kept)


class ExponentialMovingAverage(AveragedWeights):
    """An average in which each step counts `decay` times as much as the one after it.

    With `warm_up` the decay of update n is at most (1 + n) / (10 + n). So the first weights, which
    are random, are forgotten at once, and a short run is averaged over its last tenth, as it were.

    Args:
        decay: above 0 and below 1.
        warm_up: False to have that decay from the first step on.
        update_every_n_steps, update_starting_at_step, device, use_buffers: see `AveragedWeights`.
    """

    def __init__(
        self,
        decay: float = 0.999,
        *,
        warm_up: bool = True,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        device: torch.device | str | int | None = None,
        use_buffers: bool = True,
    ) -> None:
        if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay < 1:
            raise ValueError(f"decay must be a number above 0 and below 1, got {decay}")
        self.decay = decay
        self.warm_up = warm_up
        super().__init__(update_every_n_steps, update_starting_at_step, device, use_buffers)

    @property
    def state_key(self) -> str:
        """Lightning's own, under which runs of older versions saved it."""
        return "EMAWeightAveraging"

    def decay_of(self, update: int) -> float:
        """How much of the average is kept in an update; the first, number 0, keeps nothing."""
        return min(self.decay, (1 + update) / (10 + update)) if self.warm_up else self.decay

    def average(self, averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        """With the decay of this update."""
        get_ema_multi_avg_fn(self.decay_of(int(count)))(averaged, current, count)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell, where the run is too short for its decay."""
        super().on_fit_start(trainer, pl_module)
        if trainer.max_steps < 0:  # nobody knows how many
            return
        updates = (trainer.max_steps - self.update_starting_at_step) // self.update_every_n_steps
        if not updates or self.decay**updates <= SHARE:
            return
        suits = f"callbacks.ema.decay={decay_for(updates)}"
        if self.warm_up:
            last = self.decay_of(updates)
            warn(
                f"this run is short for an average with decay={self.decay}: its decay is warmed up "
                f"over {updates} updates, to {last:.3g}, so it is mostly of the last "
                f"{round(1 / (1 - last))}. That does no harm; {suits} suits a run of this length"
            )
        else:
            warn(
                f"the average with decay={self.decay} is {self.decay**updates:.1%} of the first "
                f"weights, which are random, after the last of {updates} updates: leave out "
                f"warm_up=false, or set {suits} or less"
            )


def decay_for(updates: int) -> float:
    """The decay of which so many updates leave `SHARE` of the first weights, rounded down."""
    decay = SHARE ** (1 / updates)
    digits = 1 - math.floor(math.log10(1 - decay))
    return math.floor(decay * 10**digits) / 10**digits


def _names(module: nn.Module) -> dict[str, str]:
    """Names of all tensors of a module, with the first that each has: those that are tied have
    several."""
    first: dict[int, str] = {}
    state = module.state_dict(keep_vars=True)
    return {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}


def _own(tensor: Tensor) -> Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
