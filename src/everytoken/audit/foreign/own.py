"""The door to this project's own module and data, as a fork has them: with what it steps itself."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from torch import Tensor

from everytoken.audit.foreign.batches import Padding, Place
from everytoken.audit.foreign.borrowed import trainable
from everytoken.audit.foreign.door import Door
from everytoken.audit.foreign.lightning import RESUMED_STEPS, copied, saving_trainer
from everytoken.audit.foreign.loaders import Dealt
from everytoken.audit.foreign.terms import (
    HELD_OUT,
    LOOKED_AT,
    NotApplicableError,
    Settings,
    Step,
    seeded,
    spread,
)
from everytoken.audit.observe import loader, observe_evaluation, observe_step
from everytoken.batch import IGNORE_INDEX, Batch, PaddingSide
from everytoken.data.datamodule import TokenDataModule
from everytoken.data.epoch import BatchBudget
from everytoken.data.micro_batches import MicroBatches
from everytoken.data.sampler import StepPlan
from everytoken.training.module import TokenModule


def is_own(module: L.LightningModule, data: Any) -> bool:
    """True for the parts that `everytoken.build` makes."""
    return isinstance(module, TokenModule) and isinstance(data, TokenDataModule)


class OwnDoor(Door):
    """See `Door`; an example is its number in the training split."""

    framework = "everytoken"
    pads_both_sides = True

    def __init__(
        self, module: TokenModule, datamodule: TokenDataModule, settings: Settings
    ) -> None:
        data = datamodule
        self.module = copied(module)
        self.data = data
        self._clip: float | None = None
        self.has_classes = bool(data.tokenizer.labels)
        self.val = few(data.splits.get("val", data.splits["train"]))
        numbers = spread(len(data.splits["train"]), LOOKED_AT)
        super().__init__(self.module.model, numbers, range(min(HELD_OUT, len(self.val))), settings)

    def collate(self, examples: Sequence[Any]) -> Batch:
        """By the data module: the micro-batch of these examples."""
        return self.data.splits["train"][StepPlan(0, [[*examples]])][0]

    def step(self, micro_batches: Sequence[Any], ranks: int = 1) -> Step:
        """One step of the module, which accumulates by itself."""
        counted = [_counted(batch) for batch in micro_batches]
        self.module.seed = self.seed
        with seeded(self.seed):
            found = observe_step(
                self.module, ranks, self._clip, train_dataloaders=loader([counted])
            )
        loss = found.values["train/loss"]
        return Step(found.gradients, [loss] * (len(micro_batches) == 1), found.values)

    @cached_property
    def padding(self) -> Padding | None:
        """Also of what is as wide in all of the examples."""
        found = super().padding
        if found is None:
            return None
        pad = self.data.tokenizer.special.pad
        known: dict[Place, int] = {
            ("input_ids",): pad,
            ("source_ids",): pad,
            ("labels",): IGNORE_INDEX,
        }
        values = {
            place: known.get(place) if value is None else value
            for place, value in found.values.items()
        }
        return Padding(values, found.side)

    def padded(
        self, padding: Padding, alone: Sequence[Any], side: PaddingSide | None = None, **other: Any
    ) -> Batch:
        """The batch says itself on which side its padding is."""
        made = super().padded(padding, alone, side=side, **other)
        return replace(made, padding_side=side or made.padding_side)

    @property
    def tells_padding(self) -> bool:
        """By its lengths."""
        return True

    @property
    def may_lack_targets(self) -> bool:
        """Fillers have none."""
        return True

    def evaluate(
        self, batch_size: int, ranks: int = 1, first: int | None = None
    ) -> dict[str, float]:
        """`Trainer.validate` over micro-batches of so many examples, as the data deals them out."""
        if ranks == 1:
            count = first or len(self.val)
            cuts = [[*range(i, min(i + batch_size, count))] for i in range(0, count, batch_size)]
            micro_batches = [self.val[StepPlan(0, [indices])][0] for indices in cuts]
            return observe_evaluation(self.module, 1, dataloaders=loader(micro_batches)).values
        data = copy.copy(self.data)
        data.splits = {**data.splits, "val": self.val}
        tokens = max(int(self.val.lengths.max()), int(self.val.lengths.sum()) // (2 * ranks))
        data.batching = replace(data.batching, microbatch_tokens=tokens)
        return observe_evaluation(self.module, ranks, datamodule=data).values

    def dealt(self, epoch: int) -> Dealt:
        """By the data's global batches."""
        if self.data.mixed is not None:
            raise NotApplicableError("its corpora are mixed: some examples come several times")
        steps = [*self.data.train_steps().epoch(epoch)]
        return Dealt(np.concatenate(steps).tolist(), len(self.data.splits["train"]), True)

    @contextmanager
    def clipped(self, norm: float) -> Iterator[None]:
        """By the module's own `clip_norm`."""
        self._clip = norm
        try:
            yield
        finally:
            self._clip = None

    def resumed(self, folder: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A run of a few steps, and again from the checkpoint in its middle."""
        half = RESUMED_STEPS // 2
        whole = self._trained(folder, None)
        [saved] = Path(folder).glob(f"*step={half}.ckpt")
        return whole, self._trained(folder, str(saved))

    def _trained(self, folder: str, checkpoint: str | None) -> dict[str, Tensor]:
        data = copy.copy(self.data)
        data.batching = replace(data.batching, budget=BatchBudget(None, 4))
        trainer = saving_trainer(folder)
        module = copied(self.module)
        with seeded(self.seed):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=False)
        return {name: p.detach().clone() for name, p in trainable(module.model).items()}

    @contextmanager
    def smoothed(self, amount: float) -> Iterator[None]:
        """By the module's own `label_smoothing`."""
        before, self.module.label_smoothing = self.module.label_smoothing, amount
        try:
            yield
        finally:
            self.module.label_smoothing = before

    @property
    def smoothing(self) -> float | None:
        """The module's, if it minimizes the cross-entropy and nothing else."""
        has_own_loss = type(self.module).target_sums is not TokenModule.target_sums
        is_several = self.alone[0].classes is not None
        if has_own_loss or is_several or self.module.z_loss:
            return None
        return self.module.label_smoothing

    def logits(self, batch: Batch) -> Tensor:
        """Zeros where there is no target: the model computes nothing else."""
        found = self.module.head(self.module.hidden(batch)).float()
        logits = found.new_zeros(*batch.labels.shape, found.shape[-1])
        logits[batch.is_target] = found
        return logits

    @property
    def eos_id(self) -> int | None:
        """The tokenizer's."""
        return self.data.tokenizer.special.eos


def few(split: MicroBatches) -> MicroBatches:
    """The same kind of dataset with some of its examples, as unequal in length as there are."""
    made = copy.copy(split)
    order = np.argsort(split.lengths, kind="stable")
    chosen = order[spread(len(order), HELD_OUT)].tolist()
    made.items, made.lengths = [split.items[i] for i in chosen], split.lengths[chosen]
    return made


def _counted(batch: Batch) -> Batch:
    """A batch whose columns or labels are others than when it was made."""
    lengths = batch.lengths.clamp(max=batch.input_ids.shape[1])
    return replace(
        batch,
        lengths=lengths,
        input_count=int(lengths.sum()),
        target_count=int((batch.labels != IGNORE_INDEX).sum()),
    )
