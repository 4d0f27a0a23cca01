"""Writes report.html during training."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch

from everytoken.data.datamodule import TokenDataModule
from everytoken.decoding.generate import spread
from everytoken.errors import one_line
from everytoken.report.collect import OBSERVED, REPORT, collect, seen
from everytoken.report.confusion import confusion
from everytoken.report.marked import shown
from everytoken.report.page import write_page
from everytoken.report.picture import Picture, choose_examples, thin_out
from everytoken.report.samples import samples
from everytoken.run.directory import Run
from everytoken.runtime.console import warn
from everytoken.runtime.files import write_whole
from everytoken.training.contract import computes_on_padding
from everytoken.training.module import TokenModule

SAMPLES = 4
"""Texts that a language model goes on with."""

FREE_SECONDS = 5.0
LARGEST_SHARE = 0.003
"""All reports together may take so much of a run, and the former: else one is left out."""


class WriteReport(L.Callback):
    """Writes report.html at each validation and at the end, and never stands in training's way.

    Beside it, report.json keeps what can't be read from the other files of the run directory, so
    that the report of a resumed run goes on where it was.

    Args:
        sequences: of the validation split, in the picture of a micro-batch.
        positions: sequences of more are left out of it, if there are enough others.
        predictions: how many examples are listed.
    """

    def __init__(self, sequences: int, positions: int, predictions: int) -> None:
        self.sequences = sequences
        self.positions = positions
        self.rows = predictions
        self.picture: Picture | None = None
        self.observed: dict[str, Any] = {"moments": []}
        self.has_failed = False
        self.seconds = 0.0
        self.started = time.perf_counter()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on with what an earlier process of this run has seen."""
        if trainer.is_global_zero:
            with self._carefully():
                self.observed |= seen(_run(trainer))

    # Not at its end: by then a later callback may have put averaged weights away.
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compute the losses of the picture."""
        assert isinstance(pl_module, TokenModule)
        # On all ranks: where weights are sharded, one that did more forwards than others would
        # leave them waiting.
        if trainer.state.fn == "fit" and trainer.strategy.broadcast(self._is_due()):
            with self._carefully():
                self._observe(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the report."""
        if trainer.state.fn == "fit" and self._is_due():
            self.write(trainer, "running")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say so if the run was stopped."""
        assert isinstance(pl_module, TokenModule)
        if trainer.global_step < pl_module.total_steps:
            self.write(trainer, "stopped")

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Say so if the run failed."""
        self.write(trainer, "stopped")

    def write(
        self,
        trainer: L.Trainer,
        state: Literal["running", "stopped"],
        summary: dict[str, float] | None = None,
    ) -> None:
        """Write the report of what is in the run directory.

        A run with a summary is finished; it is given while summary.json isn't written yet, for a
        run that is killed between the two should not be shown as running for ever.
        """
        run = _run(trainer)
        if not trainer.is_global_zero or not (run.path / "metrics.csv").exists():
            return
        with self._carefully():
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self.observed |= {"state": state, "written": now, "report_seconds": self.seconds}
            module = trainer.lightning_module
            assert isinstance(module, TokenModule)
            if cells := module.evaluated.details.get("confusion"):
                split = "val" if summary is None else "test"
                self.observed["confusion"] = {"split": split, **confusion(cells)}
            text = json.dumps(self.observed, allow_nan=False, separators=(",", ":"))
            write_whole(run.path / OBSERVED, text + "\n")
            content = collect(run, summary)
            write_page(run.path / REPORT, content["name"], {"runs": [content]})

    def _observe(self, trainer: L.Trainer, module: TokenModule) -> None:
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        assert isinstance(data, TokenDataModule)
        if self.picture is None:
            split = data.splits["val"]
            chosen = choose_examples(split.lengths, self.sequences, self.positions)
            on_padding = computes_on_padding(module.model)
            self.picture = Picture(split, chosen, data.tokenizer, on_padding)
        with trainer.precision_plugin.forward_context(), torch.compiler.set_stance("force_eager"):
            losses = self.picture.losses(module)
        step = trainer.global_step
        earlier = [moment for moment in self.observed["moments"] if moment["step"] < step]
        device = trainer.strategy.root_device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        with self._carefully():  # what can't generate has a report all the same
            self.observed["samples"] = samples(module, self.picture.batch, data.tokenizer, SAMPLES)
        self.observed |= {
            "picture": self.picture.drawing,
            "moments": thin_out([*earlier, {"step": step, **losses}], len(losses["loss"])),
            "predictions": [
                shown(example, data.tokenizer)
                for example in spread(module.evaluated.predictions, self.rows)
            ],
            "steps": module.total_steps,
            "parameters": sum(p.numel() for p in module.model.parameters()),
            "machine": f"{trainer.world_size} × {name}",
            "precision": str(trainer.precision),
        }

    def _is_due(self) -> bool:
        since = time.perf_counter() - self.started
        return self.seconds < FREE_SECONDS + LARGEST_SHARE * since

    @contextmanager
    def _carefully(self) -> Iterator[None]:
        """Whatever goes wrong with a report is logged once, and training goes on."""
        started = time.perf_counter()
        try:
            yield
        except Exception as error:
            if not self.has_failed:
                reason = one_line(f"{type(error).__name__}: {error}")
                warn(f"{REPORT} can't be written ({reason}); training goes on")
            self.has_failed = True
        finally:
            self.seconds += time.perf_counter() - started


def _run(trainer: L.Trainer) -> Run:
    return Run(Path(trainer.default_root_dir))
