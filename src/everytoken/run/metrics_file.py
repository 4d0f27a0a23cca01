"""metrics.csv: every logged value, in every run."""

import csv
import io
import os
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from everytoken.config.literal import shown_command
from everytoken.errors import BrokenRunError
from everytoken.run.directory import Run
from everytoken.run.metrics_reader import read_table
from everytoken.runtime.files import unlinked, write_whole


def curves(metrics: Mapping[str, float]) -> dict[str, float]:
    """Values but for Lightning's own count of epochs, an int: ever 0 in a stream without end."""
    return {k: v for k, v in metrics.items() if k != "epoch" or isinstance(v, float)}


class MetricsFile(Logger):
    """Writes every logged value to metrics.csv, one line per logged moment.

    Lines are on disk as soon as they are logged, and a file that exists is continued. A checkpoint
    says how many lines there were (`lines`), and a resumed run cuts the file back to that (`cut`).

    Args:
        run: whose metrics.csv.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.path = run.path / "metrics.csv"
        self._columns: list[str] | None = None  # None: the file wasn't looked at yet
        self._lines = 0

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

    @property
    def columns(self) -> list[str]:
        """Names of values, in the order in which they were first logged."""
        if self._columns is None:
            self._columns, rows = self._read()
            self._lines = len(rows)
        return self._columns

    @property
    def lines(self) -> int:
        """Moments in the file; the number of the next one."""
        return self._lines if self.columns else 0

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line; columns that are new make the file be written again.

        Raises:
            BrokenRunError: it can't be written, to a full disk say.
        """
        row = {"step": step, **curves(metrics)}
        with self._told():
            if new := [key for key in row if key not in self.columns]:
                self._write([*self.columns, *new], self._read()[1])
            with self._appended() as file:
                csv.DictWriter(file, self.columns).writerow(row)
        self._lines += 1

    @rank_zero_only
    def cut(self, lines: int) -> None:
        """Keep the first this many lines, and their columns: as the file was then.

        Raises:
            BrokenRunError: it can't be written.
        """
        columns, rows = self._read()
        rows = rows[:lines]
        used = [column for column in columns if any(row.get(column) for row in rows)]
        with self._told():
            if used:
                self._write(used, rows)
            else:
                self.path.unlink(missing_ok=True)
                self._columns, self._lines = [], 0

    @rank_zero_only
    def sync(self) -> None:
        """Wait until all lines are on the disk itself: a checkpoint is about to count on them.

        Raises:
            BrokenRunError: they can't be.
        """
        if self.path.exists():
            with self._told(), self._appended() as file:
                os.fsync(file.fileno())

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: config.yaml has them."""

    def _appended(self) -> TextIO:
        return open(self.path, "a", newline="", encoding="utf-8", opener=unlinked)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            again = shown_command("train", resume=self.run.shown)
            raise BrokenRunError(
                f"can't write {self.path} ({error.strerror}): make room if the disk is full, "
                f"mend it if not, and go on with {again}"
            ) from error

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        return read_table(self.path)

    def _write(self, columns: list[str], rows: Iterable[Mapping[str, Any]]) -> None:
        rows = list(rows)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.path, text.getvalue())
        self._columns, self._lines = columns, len(rows)
