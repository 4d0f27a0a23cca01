"""One trial: a run of `python -m train`, followed while it trains, and never run twice at once."""

import csv
import fcntl
import io
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
from hydra.core.override_parser.types import Quote, QuotedString

from everytoken.errors import UserError
from everytoken.run.directory import Run
from everytoken.runtime.console import Watch, log

SECONDS_BETWEEN_LOOKS = 1.0


def train(
    trial: optuna.Trial, run: Path, overrides: list[str], metric: str, lock: int
) -> tuple[int, bool]:
    """Make or continue a run until it ends or Optuna prunes it: its exit code, and if it was.

    Args:
        trial: is given each validation's `metric`.
        run: the run's directory; what it prints is in RUN.log.
        overrides: of `python -m train`.
        metric: a column of metrics.csv.
        lock: of `alone`.
    """
    place = QuotedString(str(run), Quote.single).with_quotes()
    command = [sys.executable, "-m", "train", *overrides, f"hydra.run.dir={place}", "resume=auto"]
    with run.with_name(f"{run.name}.log").open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the terminal's Ctrl-C reaches it once, through us
            pass_fds=(lock,),
        )
    is_pruned, last = False, -1
    try:
        with Watch(f"trial {run.name}") as watch:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(SECONDS_BETWEEN_LOOKS)
                for step, value in validations(run / "metrics.csv", metric):
                    if step > last:
                        trial.report(value, step)
                        watch.values = [f"step {step}", f"{metric} {value:.4g}"]
                        last = step
                if not is_pruned and trial.should_prune():
                    process.terminate()
                    is_pruned = True
    finally:
        process.terminate()  # it saves what it has
        process.wait()
    return process.returncode, is_pruned


def validations(file: Path, metric: str) -> list[tuple[int, float]]:
    """(step, finite value) of each validation, from the whole lines of a metrics.csv."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    found = {int(row["step"]): float(row[metric]) for row in rows if row.get(metric)}
    return sorted((step, value) for step, value in found.items() if math.isfinite(value))


def result(run: Path, code: int, metric: str) -> float:
    """The metric of a run that ended.

    Raises:
        UserError: there is none, and why.
    """
    if code:
        log_file = run.with_name(f"{run.name}.log")
        lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        mistakes = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        last = [*filter(str.strip, lines), *mistakes][-1:]
        raise UserError(f"{''.join(last)} (exit code {code}, see {log_file})")
    summary = Run(run).summary or {}
    if not math.isfinite(value := summary.get(metric, math.nan)):
        measured = ", ".join(key for key in summary if key.startswith("val/"))
        raise UserError(f"{metric} is {summary.get(metric, 'not measured')}, of {measured}")
    return value


@contextmanager
def alone(out: Path) -> Iterator[int]:
    """A lock on a study: the descriptor of its file, which trials inherit.

    So it is held as long as this process or a trial of it lives. Where a sweep was killed and its
    trial trains on, the next sweep waits for that.

    Raises:
        UserError: the folder can't be written, or can't be locked.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / "lock").open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"waiting for another sweep of {out}, or for the trial that one left behind")
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise UserError(f"can't use {out}: {error.strerror}: give another folder") from error
    with file:
        yield file.fileno()
