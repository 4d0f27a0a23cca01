"""A run in Weights & Biases that is kept up with metrics.csv.

metrics.csv is the journal: W&B's own step is the number of a line in it. A run that goes on after
a crash first records the lines that W&B doesn't have yet, so nothing is missing, doubled or out of
order: online the server says where it stands; an offline folder begins anew and holds all of it.
"""

import atexit
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import wandb
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger

from everytoken.artifacts import CheckpointArtifacts
from everytoken.console import say
from everytoken.data import TokenDataModule
from everytoken.metrics_file import read_metrics
from everytoken.module import TokenModule
from everytoken.prediction_table import COLUMNS, Row, chosen, rows_of
from everytoken.runs import Run

TABLE = "val/predictions"


class Tracker(WandbLogger, L.Callback):
    """Records what is logged, and a table of predictions at each validation.

    What goes wrong in W&B is told once and never reaches training.

    Args:
        experiment: an open W&B run.
        run: whose metrics.csv is followed.
        predictions: rows of the table; 0 for none.
        log_checkpoints: which checkpoints become artifacts: "none", "best", "all".
        keep_checkpoints: how many versions of the artifact are kept.
    """

    def __init__(
        self,
        experiment: wandb.Run,
        run: Run,
        *,
        predictions: int,
        log_checkpoints: str,
        keep_checkpoints: int,
    ) -> None:
        super().__init__(experiment=experiment, project=experiment.project)
        self.run = run
        self.predictions = predictions
        self.artifacts = CheckpointArtifacts(experiment, run, log_checkpoints, keep_checkpoints)
        self.tables_file = run.path / "wandb" / "predictions.jsonl"
        self.recorded = experiment.starting_step
        """Lines of metrics.csv that the server had when this process started."""
        self.line: int | None = None
        """Lines of metrics.csv that were seen; None before the first look at it."""
        self.fitting = True
        """False in the evaluation after training, which has a place in the summary only."""
        self.silenced = False
        experiment.define_metric("step")
        experiment.define_metric("*", step_metric="step", step_sync=True)
        experiment.define_metric("val/loss", step_metric="step", summary="min")
        atexit.register(self.finish)

    @property
    def upload(self) -> str:
        """The command that uploads what was recorded."""
        folder = Path(self.experiment.settings.sync_dir)
        return f"wandb sync {self.run.shown / folder.relative_to(self.run.path)}"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record one moment, which metrics.csv has as its last line already."""
        with self._safely():
            if self.line is None:
                self._catch_up()
            elif self.fitting:
                self._record(self.line, {**metrics, "step": step})
                self.line += 1
            else:
                self.experiment.summary.update(_without_epoch(metrics))
                self.line += 1

    def _catch_up(self) -> None:
        """Record the lines of metrics.csv, and the tables that belong to them."""
        lines = read_metrics(self.run)
        tables = self._read_tables(len(lines))
        for number, line in enumerate(lines):
            self._record(number, line)
            if number in tables:
                self._record(number, {TABLE: _table(tables[number])})
        self.line = len(lines)

    def _record(self, line: int, values: Mapping[str, Any]) -> None:
        if line >= self.recorded:
            self.experiment.log(_without_epoch(values), step=line)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Catch up at once, so that an offline folder is whole however early it ends."""
        with self._safely():
            if self.line is None:
                self._catch_up()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note which validation this is."""
        self.fitting = trainer.state.fn == "fit"

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tests come after training."""
        self.fitting = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the table, beside the metrics that were logged a moment ago."""
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if not self.predictions or not self.fitting or not self.line:
            return
        assert isinstance(pl_module, TokenModule)
        assert isinstance(data, TokenDataModule)
        with self._safely():
            rows = rows_of(chosen(pl_module.predictions, self.predictions), data.tokenizer)
            self._write_table(self.line - 1, rows)
            self._record(self.line - 1, {TABLE: _table(rows)})

    def _write_table(self, line: int, rows: list[Row]) -> None:
        with self.tables_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"line": line, "rows": rows}) + "\n")

    def _read_tables(self, lines: int) -> dict[int, list[Row]]:
        """Tables of the lines that are left; those of lines that were cut off are forgotten."""
        if not self.tables_file.exists():
            return {}
        tables: dict[int, list[Row]] = {}
        for text in self.tables_file.read_text(encoding="utf-8").splitlines():
            try:
                table = json.loads(text)
            except json.JSONDecodeError:
                continue  # the process was killed while it wrote this
            if table["line"] < lines:
                tables[table["line"]] = [Row(*row) for row in table["rows"]]
        self.tables_file.write_text("", encoding="utf-8")
        for line, rows in tables.items():
            self._write_table(line, rows)
        return tables

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Log the checkpoint if each new best is asked for."""
        if isinstance(checkpoint_callback, ModelCheckpoint):
            with self._safely():
                self.artifacts.saved(Path(checkpoint_callback.best_model_path))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Log the best checkpoint, if it is asked for and training is over."""
        if status == "success":
            with self._safely():
                self.artifacts.trained()

    def finish(self) -> None:
        """End the run; what can't be uploaded in time stays on disk, and how to upload it is told.

        Called at the end of the process.
        """
        try:
            self.experiment.finish()
        except Exception:
            say(f"Weights & Biases: not all was uploaded; upload it with: {self.upload}")

    @contextmanager
    def _safely(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self.silenced:
                say(f"Weights & Biases: recording less ({' '.join(str(error).split())[:200]})")
            self.silenced = True


def _without_epoch(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "epoch"}


def _table(rows: list[Row]) -> wandb.Table:
    cells = [[r.source, r.target, wandb.Html(r.prediction, inject=False), r.right] for r in rows]
    return wandb.Table(columns=list(COLUMNS), data=cells)
