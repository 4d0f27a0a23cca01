"""What a module knows of the step and the evaluation at hand, for those who watch it."""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from torch import Tensor

from everytoken.batch import Batch
from everytoken.decoding.generate import Prediction
from everytoken.training.distributed import HostCopy


@dataclass(eq=False)
class StepState:
    """The optimizer step at hand on this rank. Callbacks read it; what they may set says so."""

    batch: Batch | None = None
    """The micro-batch that the model reads or has read, also in evaluation and generation; None
    while the optimizer works."""
    gradient_scale: Tensor = field(default_factory=lambda: torch.ones(()))
    """() what the summed losses of the step are multiplied by before backward."""
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    """() the loss of this rank's target tokens."""
    gradient_norm: Tensor = field(default_factory=lambda: torch.zeros(()))
    """() the norm of the whole gradient, of all ranks, before it is clipped."""
    votes: list[int] = field(default_factory=list)
    """What this rank adds to the one exchange of counts of the step; set before it by a callback,
    see `StopOnRequest`."""
    vote_counts: HostCopy | None = None
    """The votes of all ranks, added; None if there were none."""


@dataclass(eq=False)
class EvaluationState:
    """What the evaluation at hand, or the last one, has to show: this rank's part."""

    predictions: list[Prediction] = field(default_factory=list)
    """Those of the first micro-batch."""
    texts: dict[int, str] = field(default_factory=dict)
    """What was generated, by the index of the example."""
    details: dict[str, Any] = field(default_factory=dict)
    """What metrics have to show besides their values, of all ranks; see `EvaluationMetrics`."""
    cut_off: float = 0.0
    """Share of the answers, of all ranks, that had no end where evaluation cut them off."""


@runtime_checkable
class NonFiniteHook(Protocol):
    """A callback that decides what becomes of a step whose gradient isn't finite."""

    def on_nonfinite_gradient(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Called on all ranks before the optimizer steps, with all gradients zero; may raise."""
        ...
