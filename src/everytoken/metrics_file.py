"""metrics.csv: every logged value, in every run."""

import csv
from argparse import Namespace
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from everytoken.runs import Run


class MetricsFile(Logger):
    """Writes every logged value to metrics.csv, one line per step and moment.

    Lines are on disk as soon as they are logged, and a file that exists is continued.

    Args:
        run: whose metrics.csv.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.path = run.path / "metrics.csv"

    # ModelCheckpoint saves to save_dir/name/version/checkpoints: the run directory's checkpoints/.
    @property
    def save_dir(self) -> str:
        """The run directory."""
        return str(self.run.path)

    @property
    def name(self) -> str:
        """Nothing."""
        return ""

    @property
    def version(self) -> str:
        """Nothing."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line; columns that are new make the file be written again."""
        row = {"step": step, **{k: v for k, v in metrics.items() if k != "epoch"}}
        columns, rows = self._read()
        if new := [key for key in row if key not in columns]:
            columns += new
            temporary = self.path.with_suffix(".tmp")
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows)
            temporary.replace(self.path)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, columns).writerow(row)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: config.yaml has them."""

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        if not self.path.exists():
            return [], []
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or []), list(reader)


def read_metrics(run: Run) -> list[dict[str, float]]:
    """The lines of a run's metrics.csv, without the fields that are empty; none if it has none."""
    path = run.path / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
