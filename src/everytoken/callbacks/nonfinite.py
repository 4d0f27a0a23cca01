"""Optimizer steps whose gradient is NaN or infinite: found before they do harm, explained, kept.

Such a step changes nothing. It is done again with each layer watched, see `replay.py`, and what is
needed for that is written to a file, which `scripts/replay.py` reads. Then the run stops, or passes
the step over.
"""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from everytoken.batch import Batch
from everytoken.callbacks.replay import Finding, Step, whole_weights
from everytoken.config.literal import shown_command
from everytoken.errors import BrokenRunError, one_line
from everytoken.run.directory import shown
from everytoken.runtime.console import warn
from everytoken.runtime.data_ranks import data_ranks
from everytoken.training.buffers import KeptBuffers
from everytoken.training.distributed import from_all_ranks
from everytoken.training.module import TokenModule

LEAST_SCALE = 1.0
"""Of fp16's loss: where a gradient overflows without enlargement, a smaller scale is no remedy."""
SHOWN_EXAMPLES = 8
"""Indices of examples in a message."""


class NonFiniteSteps(L.Callback):
    """Explains and passes over steps whose gradient is NaN or infinite, or stops the run.

    With fp16 an infinite gradient is part of the search for a scale of the loss: the scaler passes
    over the step, and it counts here only if the loss itself isn't finite, or the scale has become
    so small that it can't be the reason.

    Args:
        folder: where files of such steps are written.
        allowed: how many may be passed over.
    """

    def __init__(self, folder: Path, allowed: int) -> None:
        self.folder = folder
        self.allowed = allowed
        self.skipped = 0
        """Steps that were passed over since the run began."""
        self.micro_batches: list[Batch] = []
        self.buffers: KeptBuffers | None = None
        """Those of the model before the step."""

    def state_dict(self) -> dict[str, int]:
        """Part of each checkpoint."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on counting."""
        self.skipped = state_dict["skipped"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: list[Batch], batch_idx: int
    ) -> None:
        """Keep what the step is made of."""
        assert isinstance(pl_module, TokenModule)
        self.micro_batches = batch
        self.buffers = KeptBuffers(pl_module.model)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Log the count, if it may grow."""
        if self.allowed:
            pl_module.log("train/skipped_steps", float(self.skipped))

    def on_nonfinite_gradient(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Explain the step at hand on all ranks together, and pass it over if that is allowed.

        What its forwards left in buffers is undone first, and after it was repeated.

        Raises:
            BrokenRunError: it isn't.
        """
        module = pl_module
        assert isinstance(module, TokenModule)
        assert self.buffers is not None
        self.buffers.restore(module.model)
        if _scale_is_settling(trainer, module):
            return
        ranks, rank = data_ranks(trainer), trainer.global_rank
        step = Step(
            micro_batches=self.micro_batches,
            share=float(module.step.gradient_scale),
            seed=module.seed,
            steps_made=trainer.global_step,
            rank=ranks.rank,
            world_size=ranks.size,
            precision=str(trainer.precision),
            device=module.device.type,
        )
        found = _first_in_forward(from_all_ranks(step.finding(step.repeat(module))))
        self.buffers.restore(module.model)
        guilty = list(found) or [0]
        file = self.folder / f"step-{step.steps_made + 1}-rank-{rank}.pt"
        weights = whole_weights(module.model)
        problem = None
        if rank in guilty:
            problem = _save(step, weights, found.get(rank), file)
        # This also waits for all files: the first rank that ends, ends them all.
        file, problem = from_all_ranks((file, problem))[guilty[0]]
        line = f"{_explain(step, module, found)}: "
        line += problem or "see " + shown_command("python scripts/replay.py", shown(file))
        self.skipped += 1
        if self.skipped > self.allowed:
            raise BrokenRunError(
                f"{line}, lower optimizer.lr, or leave such steps out: "
                f"trainer.skip_nonfinite_steps={self.skipped}"
            )
        warn(
            f"left out step {step.steps_made + 1}, {self.skipped} of at most {self.allowed}: {line}"
        )


def _scale_is_settling(trainer: L.Trainer, module: TokenModule) -> bool:
    """True if a smaller scale may be all that is needed; the scaler then passes over the step."""
    scaler: torch.amp.GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or scaler.get_scale() <= LEAST_SCALE:
        return False
    return bool(
        torch.as_tensor(trainer.strategy.reduce(module.step.loss_sum, reduce_op="sum")).isfinite()
    )


def _first_in_forward(findings: list[Finding | None]) -> dict[int, Finding]:
    """What ranks found, by rank; only what went wrong in forward, if anything did."""
    found = {rank: one for rank, one in enumerate(findings) if one is not None}
    in_forward = {rank: one for rank, one in found.items() if one.in_forward}
    return in_forward or found


def _save(
    step: Step, weights: dict[str, Tensor], finding: Finding | None, file: Path
) -> str | None:
    """Write the file; why not, if it can't be."""
    try:
        step.save(file, weights, finding)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError of torch
        return f"{shown(file)} can't be written ({one_line(error, 100)})"
    return None


def _explain(step: Step, module: TokenModule, found: dict[int, Finding]) -> str:
    norm = float(module.step.gradient_norm)
    line = f"the gradient's norm is {norm} at step {step.steps_made + 1}"
    if not found:
        return f"{line}, though each micro-batch gives a finite one when it is repeated alone"
    rank, first = next(iter(found.items()))
    place = f"micro-batch {first.micro_batch + 1} of {len(step.micro_batches)}"
    if step.world_size > 1:
        place += f" of rank {rank}"
    if first.examples:
        more = "…" if len(first.examples) > SHOWN_EXAMPLES else ""
        examples = ", ".join(map(str, first.examples[:SHOWN_EXAMPLES]))
        place += f" (train example{'s' * (len(first.examples) > 1)} {examples}{more})"
    return f"{line}: {first.what} in {place}"
