"""How long a run is, in optimizer steps and in epochs."""

from typing import NamedTuple

from omegaconf import DictConfig

from everytoken.data.datamodule import TokenDataModule
from everytoken.training.settings import epochs_in


class Length(NamedTuple):
    """What a run's limits and its data make of it."""

    steps: int
    """Optimizer steps."""
    epochs: float
    """Passes over the training split."""
    validate_every: int
    """Optimizer steps from one validation to the next."""
    limits: dict[str, int]
    """Optimizer steps that each limit of the config allows, by its key."""

    def __str__(self) -> str:
        end = min(self.limits, key=lambda key: self.limits[key])
        text = f"{self.steps} steps, {self.epochs:.3g} epochs"
        if len(self.limits) == 1:
            return text
        others = (f"{key} allows {limit}" for key, limit in self.limits.items() if key != end)
        return f"{text}: {end} ends it, {', '.join(others)}"


def length_of(cfg: DictConfig, data: TokenDataModule) -> Length:
    """The length of a run: max_steps or max_epochs, whichever comes first.

    An interval in epochs counts the steps of the first one.
    """
    stream = data.train_steps()
    limits = {}
    if cfg.trainer.max_steps is not None:
        limits["trainer.max_steps"] = cfg.trainer.max_steps
    if cfg.trainer.max_epochs is not None:
        limits["trainer.max_epochs"] = stream.total_steps()
    steps = min(limits.values())
    every = cfg.trainer.val_check_interval
    if (epochs := epochs_in(every)) is not None:
        every = max(1, round(epochs * stream.steps_of_first_epoch()))
    return Length(steps, stream.epochs_after(steps), every, limits)
