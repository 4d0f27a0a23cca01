"""Evaluation, tried before training: what fails in it shall not fail hours later."""

from copy import deepcopy

import lightning as L
import torch

from everytoken.data.datamodule import TokenDataModule
from everytoken.data.sampler import StepPlan
from everytoken.training.module import TokenModule
from everytoken.training.step_state import EvaluationState

EXAMPLES = 2


class Rehearsal(L.Callback):
    """Evaluates two validation examples when training begins, and counts nothing of it."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the way of evaluation, on all ranks: weights may be sharded."""
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if not isinstance(data, TokenDataModule) or "val" not in data.splits:
            return
        assert isinstance(pl_module, TokenModule)
        split = data.splits["val"]
        [batch] = split[StepPlan(0, [list(range(min(EXAMPLES, len(split))))])]
        metrics = deepcopy(pl_module.val_metrics)
        training = [part for part in pl_module.modules() if part.training]
        pl_module.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
            pl_module.evaluation_step(batch, metrics, keep=True)
        for part in training:
            part.training = True
        pl_module.evaluated, pl_module.step.batch = EvaluationState(), None
