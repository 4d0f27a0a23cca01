"""The progress bar of training: loss, masked accuracy, real tokens/s and fill.

In a terminal it is a bar; elsewhere (a file, a batch job) a line now and then.
"""

import time
from typing import Any

import lightning as L
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from everytoken.console import console, say
from everytoken.module import TokenModule, is_logged_step

SHOWN = {
    "train/loss": "loss {:.3f}",
    "train/accuracy": "accuracy {:.3f}",
    "throughput/real_tokens_per_second": "{:,.0f} real tokens/s",
    "throughput/fill": "fill {:.2f}",
}
SECONDS_BETWEEN_LINES = 10.0


class TrainingProgress(L.Callback):
    """Shows where training stands, on rank 0."""

    def __init__(self) -> None:
        self.bar: Progress | None = None
        self.last_line = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw an empty bar."""
        if trainer.is_global_zero and console.is_terminal:
            self.bar = Progress(
                TextColumn("training"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[values]}"),
                console=console,
            )
            self.bar.add_task("", total=self._total(pl_module), values="")
            self.bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Move the bar; at logged steps, refresh the values."""
        step = trainer.global_step
        values = None
        if is_logged_step(trainer):
            logged = trainer.callback_metrics
            values = "  ".join(f.format(float(logged[k])) for k, f in SHOWN.items() if k in logged)
        if self.bar is not None:
            task = self.bar.tasks[0]
            self.bar.update(task.id, completed=step, values=values or task.fields["values"])
        elif values is not None and time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            say(f"step {step}/{self._total(pl_module)}  {values}")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print what validation found."""
        if trainer.state.fn == "fit":
            found = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            values = "  ".join(f"{name} {float(value):.4g}" for name, value in found.items())
            say(f"step {trainer.global_step}  {values}")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the bar as it stands."""
        self._stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Free the terminal."""
        self._stop()

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    @staticmethod
    def _total(module: L.LightningModule) -> int:
        assert isinstance(module, TokenModule)
        return module.total_steps
