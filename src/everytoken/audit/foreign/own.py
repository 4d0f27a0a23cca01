"""The door to this project's own module and data, as a fork has them: with what it steps itself."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import lightning as L

from everytoken.audit.foreign.door import HELD_OUT, LOOKED_AT, Door, Settings, Step, seeded
from everytoken.audit.foreign.lightning import copied
from everytoken.audit.observe import loader, observe_evaluation, observe_step
from everytoken.batch import Batch
from everytoken.data.datamodule import TokenDataModule
from everytoken.data.micro_batches import MicroBatches
from everytoken.data.sampler import StepPlan
from everytoken.training.module import TokenModule


def is_own(module: L.LightningModule, data: Any) -> bool:
    """True for the parts that `everytoken.build` makes."""
    return isinstance(module, TokenModule) and isinstance(data, TokenDataModule)


class OwnDoor(Door):
    """See `Door`; an example is its number in the training split."""

    framework = "everytoken"

    def __init__(
        self, module: TokenModule, datamodule: TokenDataModule, settings: Settings
    ) -> None:
        data = datamodule
        self.module = copied(module)
        self.data = data
        self.val = few(data.splits.get("val", data.splits["train"]))
        numbers = range(min(LOOKED_AT, len(data.splits["train"])))
        super().__init__(self.module.model, numbers, range(min(HELD_OUT, len(self.val))), settings)

    def collate(self, examples: Sequence[Any]) -> Batch:
        """By the data module: the micro-batch of these examples."""
        return self.data.splits["train"][StepPlan(0, [[*examples]])][0]

    def step(self, micro_batches: Sequence[Any], ranks: int = 1) -> Step:
        """One step of the module, which accumulates by itself."""
        with seeded():
            found = observe_step(
                self.module, ranks, train_dataloaders=loader([list(micro_batches)])
            )
        loss = found.values["train/loss"]
        return Step(found.gradients, [loss] * (len(micro_batches) == 1), found.values)

    def evaluate(self, batch_size: int, ranks: int = 1) -> dict[str, float]:
        """`Trainer.validate` over micro-batches of so many examples, as the data deals them out."""
        if ranks == 1:
            count = len(self.val)
            cuts = [[*range(i, min(i + batch_size, count))] for i in range(0, count, batch_size)]
            micro_batches = [self.val[StepPlan(0, [indices])][0] for indices in cuts]
            return observe_evaluation(self.module, 1, dataloaders=loader(micro_batches)).values
        data = copy.copy(self.data)
        data.splits = {**data.splits, "val": self.val}
        tokens = max(int(self.val.lengths.max()), int(self.val.lengths.sum()) // (2 * ranks))
        data.batching = replace(data.batching, microbatch_tokens=tokens)
        return observe_evaluation(self.module, ranks, datamodule=data).values


def few(split: MicroBatches) -> MicroBatches:
    """The same kind of dataset with its first examples."""
    made = copy.copy(split)
    made.items, made.lengths = split.items[:HELD_OUT], split.lengths[:HELD_OUT]
    return made
