"""A run in Weights & Biases that is kept up with metrics.csv.

metrics.csv is the journal: W&B's own step is the number of a line in it. A run that goes on after
a crash first records the lines that W&B doesn't have yet, so nothing is missing, doubled or out of
order. Online the server says what it has; offline that is read from the files that W&B wrote.

W&B is talked to by a thread of its own, since some of its calls wait for the server: what hangs or
fails there never reaches training.
"""

import atexit
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import lightning as L
import wandb
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger

from everytoken.config.literal import shell_word, shown_command
from everytoken.data.datamodule import TokenDataModule
from everytoken.decoding.generate import spread
from everytoken.errors import one_line
from everytoken.run.directory import Run
from everytoken.run.metrics_file import curves
from everytoken.run.metrics_reader import read_metrics
from everytoken.runtime.console import warn
from everytoken.runtime.files import unlinked, write_whole
from everytoken.tracking.artifacts import CheckpointArtifacts
from everytoken.tracking.prediction_table import COLUMNS, Row, rows_of
from everytoken.tracking.wandb_files import recorded_lines
from everytoken.training.module import TokenModule

TABLE = "val/predictions"


class Tracker(WandbLogger, L.Callback):
    """Records what is logged, and a table of predictions at each validation.

    Args:
        experiment: an open W&B run.
        run: whose metrics.csv is followed.
        predictions: rows of the table; 0 for none.
        log_checkpoints: which checkpoints become artifacts: "none", "best", "all".
        keep_checkpoints: how many versions of the artifact are kept.
        finish_seconds: how long the end of the process waits for W&B.
    """

    def __init__(
        self,
        experiment: wandb.Run,
        run: Run,
        *,
        predictions: int,
        log_checkpoints: str,
        keep_checkpoints: int,
        finish_seconds: float,
    ) -> None:
        super().__init__(experiment=experiment, project=experiment.project)
        self.run = run
        self.predictions = predictions
        self.finish_seconds = finish_seconds
        self.artifacts = CheckpointArtifacts(experiment, run, log_checkpoints, keep_checkpoints)
        self.tables_file = run.path / "wandb" / "predictions.jsonl"
        self.recorded = experiment.starting_step
        """Lines of metrics.csv that W&B had when this process started."""
        if experiment.offline:
            self.recorded = recorded_lines(run.path / "wandb")
        self.line: int | None = None
        """Lines of metrics.csv that were seen; None before the first look at it."""
        self.pending = False
        self.fitting = True
        """False in the evaluation after training, which has a place in the summary only."""
        self.failed = False
        """True if something couldn't be recorded, which is logged once."""
        self.calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self.worker = threading.Thread(target=self._work, daemon=True)
        self.worker.start()
        experiment.define_metric("step")
        experiment.define_metric("*", step_metric="step", step_sync=True)
        experiment.define_metric("val/loss", step_metric="step", summary="min")
        atexit.register(self.finish)

    @property
    def upload(self) -> str:
        """The command that uploads what was recorded.

        `wandb sync` would upload twice what a run has uploaded before its connection broke.
        """
        if any(self.run.path.glob("wandb/run-*")):
            return shown_command("python -m everytoken.tracking", self.run.shown)
        return f"wandb sync {shell_word(str(self.run.shown))}/wandb/offline-run-*"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record one moment, which metrics.csv has as its last line already."""
        values = curves(metrics)
        if self.line is None:
            self.catch_up()
        elif self.fitting:
            self._record(self.line, {**values, "step": step})
            self.line += 1
        else:
            self.calls.put(lambda: self._summarise(values))
            self.line += 1

    def catch_up(self) -> None:
        """Record the lines of metrics.csv, and the tables that belong to them."""
        try:
            lines = read_metrics(self.run)
            tables = self._read_tables(len(lines))
        except (OSError, ValueError) as error:  # tried again at the next moment
            self._tell(error)
            return
        for number, line in enumerate(lines):
            self._record(number, line)
            if number in tables:
                self._record_table(number, tables[number])
        self.line = len(lines)

    def _record(self, line: int, values: Mapping[str, Any]) -> None:
        if line >= self.recorded:
            self.calls.put(lambda: self._log(line, values, commit=False))

    def _record_table(self, line: int, rows: list[Row]) -> None:
        if line >= self.recorded:
            self.calls.put(lambda: self._log_table(line, rows))

    def _log_table(self, line: int, rows: list[Row]) -> None:
        if self.failed:
            return  # it may wait for the server for half a minute, while losses wait for it
        cells: list[Any] = [
            [r.source, r.target, wandb.Html(r.prediction, inject=False), r.right] for r in rows
        ]
        table = wandb.Table(columns=list(COLUMNS), data=cells)
        self._log(line, {TABLE: table}, commit=True)

    def _log(self, line: int, values: Mapping[str, Any], *, commit: bool) -> None:
        self.experiment.log(dict(values), step=line, commit=commit)
        self.pending = not commit  # more may come for this line

    def _summarise(self, values: Mapping[str, Any]) -> None:
        if self.pending:  # or the last line would come after these values, and replace them
            self.experiment.log({}, commit=True)
            self.pending = False
        self.experiment.summary.update(values)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Catch up at once, so that an offline folder is whole however early it ends."""
        if self.line is None:
            self.catch_up()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note which validation this is."""
        self.fitting = trainer.state.fn == "fit"

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tests come after training."""
        self.fitting = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the table, beside the metrics that were logged a moment ago.

        After training, the metrics themselves: they are no point of a curve then.
        """
        if not self.fitting:
            found = trainer.callback_metrics.items()
            values = {name: float(value) for name, value in found if name.startswith("val/")}
            self.calls.put(lambda: self._summarise(values))
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if not self.predictions or not self.fitting or not self.line:
            return
        assert isinstance(pl_module, TokenModule)
        assert isinstance(data, TokenDataModule)
        rows = rows_of(spread(pl_module.evaluated.predictions, self.predictions), data.tokenizer)
        self._write_table(self.line - 1, rows)
        self._record_table(self.line - 1, rows)

    def _write_table(self, line: int, rows: list[Row]) -> None:
        try:
            with open(self.tables_file, "a", encoding="utf-8", opener=unlinked) as file:
                file.write(json.dumps({"line": line, "rows": rows}) + "\n")
        except OSError as error:  # no room: the run that goes on after a crash lacks this table
            self._tell(error)

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
        write_whole(self.tables_file, "")
        for line, rows in tables.items():
            self._write_table(line, rows)
        return tables

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Log the checkpoint if each new best is asked for."""
        if isinstance(checkpoint_callback, ModelCheckpoint):
            best = Path(checkpoint_callback.best_model_path)
            self._artifact(lambda: self.artifacts.saved(best))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Log the best checkpoint, if it is asked for and training is over."""
        if status == "success":
            self._artifact(self.artifacts.trained)

    def _artifact(self, keep: Callable[[], Callable[[], object] | None]) -> None:
        try:
            if upload := keep():
                self.calls.put(upload)
        except OSError as error:
            self._tell(error)

    def finish(self) -> None:
        """End the run; what can't be uploaded in time stays on disk, and a line says so.

        Called at the end of the process.
        """
        atexit.unregister(self.finish)
        self.calls.put(self.experiment.finish)
        self.calls.put(None)
        self.worker.join(self.finish_seconds)
        if self.failed or self.worker.is_alive():
            warn(f"not all was uploaded to Weights & Biases; upload it with: {self.upload}")
        elif not self.experiment.offline:
            for log in self.run.path.glob("wandb/offline-run-*/*.wandb"):
                log.with_suffix(".wandb.synced").touch()  # the server has all that it holds

    def _work(self) -> None:
        """What the thread does: one call after the other."""
        while (call := self.calls.get()) is not None:
            try:
                call()
            except Exception as error:  # whatever W&B does, training goes on
                self._tell(error)

    def _tell(self, error: Exception) -> None:
        if not self.failed:
            warn(f"Weights & Biases is recording less ({one_line(error, 200)})")
        self.failed = True
