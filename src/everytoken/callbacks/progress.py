"""How far training, validating and testing are: a bar on a terminal, elsewhere lines."""

import re
from typing import Any

import lightning as L

from everytoken.runtime.console import Watch, fields, log
from everytoken.training.module import TokenModule, is_logged_step

SHOWN = {
    "epoch": "epoch {:.2f}",
    "train/loss": "loss {:.3f}",
    "train/accuracy": "accuracy {:.3f}",
    "throughput/real_tokens_per_second": "{:,.0f} real tokens/s",
    "throughput/fill": "fill {:.2f}",
}


class EvaluationProgress(L.Callback):
    """Shows how far validating or testing is, in this rank's micro-batches."""

    def __init__(self) -> None:
        self.evaluating: Watch | None = None
        self.micro_batches = 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin."""
        self._begin("validating", trainer.num_val_batches)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin."""
        self._begin("testing", trainer.num_test_batches)

    def _begin(self, what: str, micro_batches: list[int | float]) -> None:
        self.micro_batches = 0
        self.evaluating = Watch(
            what, lambda: self.micro_batches, int(sum(micro_batches)), "micro-batches"
        )
        self.evaluating.start()

    def on_validation_batch_end(self, *args: Any) -> None:
        """Count."""
        self.micro_batches += 1

    def on_test_batch_end(self, *args: Any) -> None:
        """Count."""
        self.micro_batches += 1

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End."""
        self._end()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End."""
        self._end()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Free the terminal."""
        self._end()

    def _end(self) -> None:
        if self.evaluating is not None:
            self.evaluating.stop()


class TrainingProgress(EvaluationProgress):
    """The same, and how far training is: loss, masked accuracy, real tokens/s and fill."""

    def __init__(self) -> None:
        super().__init__()
        self.training: Watch | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin."""
        assert isinstance(pl_module, TokenModule)
        self.training = Watch(
            "training", lambda: trainer.global_step, pl_module.total_steps, "steps"
        )
        self.training.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """At logged steps, take the values."""
        if self.training is not None and is_logged_step(trainer):
            logged = trainer.callback_metrics
            shown = [form.format(float(logged[k])) for k, form in SHOWN.items() if k in logged]
            self.training.values = shown

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End, and say what validation found."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit":
            found = trainer.callback_metrics.items()
            shown = [f"step {trainer.global_step}"]
            # Not a metric's own parts, such as val/f1/PERSON: they are many.
            whole = re.compile(r"epoch|val/[^/]+")
            shown += [f"{k} {float(v):.4g}" for k, v in found if whole.fullmatch(k)]
            log(fields(shown))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End."""
        if self.training is not None:
            self.training.stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Free the terminal."""
        super().on_exception(trainer, pl_module, exception)
        self.on_train_end(trainer, pl_module)
