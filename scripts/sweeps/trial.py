"""One trial: a run of `python -m train`, followed while it trains, and never run twice at once."""

import csv
import ctypes
import fcntl
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import optuna
from hydra.core.override_parser.types import Quote, QuotedString
from optuna.trial import TrialState

from everytoken.errors import INTERRUPTED, UserError
from everytoken.runtime.console import Watch, log

STOPPED = (INTERRUPTED, 128 + signal.SIGTERM, 128 + signal.SIGUSR1, 124)
"""Exit codes of a run that can go on."""

MISTAKE = re.compile(r"error: |[\w.]+(Error|Exception|Interrupt)\b")
"""How a line begins that says why a run failed: ours, or the last of a traceback."""

SECONDS_BETWEEN_LOOKS = 0.5
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Outcome:
    """How a trial ended; its state is RUNNING if it can go on."""

    state: TrialState
    value: float | None = None
    reason: str = ""
    code: int = 0


class Trials:
    """Runs trials, one after the other.

    Args:
        out: the study's folder; trial 3 is the run OUT/3, and OUT/3.log what it printed.
        metric: of summary.json, and of the validations in metrics.csv by which trials are pruned.
        lock: of `alone`.
    """

    def __init__(self, out: Path, metric: str, lock: int) -> None:
        self.out = out
        self.metric = metric
        self.lock = lock
        self.signals: list[int] = []
        """Those that asked this process to stop."""

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Signals are noted, so that no trial and no write to the study is cut off."""

        def note(number: int, frame: FrameType | None) -> None:
            self.signals.append(number)

        handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, note) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self, trial: optuna.Trial, words: list[str]) -> Outcome:
        """Train, until it ends or isn't worth it; a trial that was begun goes on."""
        run = self.out / str(trial.number)
        follower = Follower(trial, run / "metrics.csv", self.metric)
        code, hopeless = 0, follower.is_hopeless()
        if not hopeless and not (run / "summary.json").exists():
            code, hopeless = self._train(run, words, follower)
        if code == 0 and not hopeless:
            return self._result(run)
        if self.signals:
            return Outcome(TrialState.RUNNING, code=128 + self.signals[0])
        if hopeless:
            return Outcome(TrialState.PRUNED, follower.last)
        if code in STOPPED:
            return Outcome(TrialState.RUNNING, code=code)
        return Outcome(TrialState.FAIL, reason=_last_words(self._log(run), code))

    def _train(self, run: Path, words: list[str], follower: "Follower") -> tuple[int, bool]:
        """The exit code, and whether it was stopped because it isn't worth it."""
        process = self._start(run, words)
        hopeless, heard = False, 0
        with Watch(f"trial {run.name}") as watch:
            while (code := process.poll()) is None:
                if len(self.signals) > heard:
                    process.kill() if heard else process.terminate()
                    heard += 1
                elif not heard and not hopeless and follower.is_hopeless():
                    process.terminate()
                    hopeless = True
                watch.values = follower.state
                time.sleep(SECONDS_BETWEEN_LOOKS)
        follower.tell()  # others are measured by all that it did
        return code, hopeless

    def _log(self, run: Path) -> Path:
        return run.with_name(f"{run.name}.log")

    def _start(self, run: Path, words: list[str]) -> subprocess.Popen[bytes]:
        place = QuotedString(str(run), Quote.single).with_quotes()
        command = [sys.executable, "-m", "train", *words, f"hydra.run.dir={place}", "resume=auto"]
        with self._log(run).open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the terminal's Ctrl-C reaches it once, through us
                pass_fds=(self.lock,),
                preexec_fn=stop_with_parent() if sys.platform == "linux" else None,
            )

    def _result(self, run: Path) -> Outcome:
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        value = summary.get(self.metric)
        if value is None:
            known = ", ".join(key for key in summary if key.startswith("val/"))
            return Outcome(TrialState.FAIL, reason=f"it has no {self.metric}, but {known}")
        if not math.isfinite(value):
            return Outcome(TrialState.FAIL, reason=f"{self.metric} is {value}")
        return Outcome(TrialState.COMPLETE, value)


class Follower:
    """Tells Optuna of each validation of a run.

    Args:
        trial: of the run.
        file: the run's metrics.csv.
        metric: what is told.
    """

    def __init__(self, trial: optuna.Trial, file: Path, metric: str) -> None:
        self.trial = trial
        self.file = file
        self.metric = metric
        [kept] = [t for t in trial.study.get_trials() if t.number == trial.number]
        self.told = dict(kept.intermediate_values)
        self.size, self.next_look = 0, 0.0

    @property
    def last(self) -> float | None:
        """The value that was told last."""
        return self.told[max(self.told)] if self.told else None

    @property
    def state(self) -> str:
        """How far the run is, in words."""
        return f"step {max(self.told)}  {self.metric} {self.last:.4g}" if self.told else ""

    def is_hopeless(self) -> bool:
        """Look for news; True if Optuna's pruner says that the trial isn't worth going on with."""
        return time.monotonic() > self.next_look and self.tell() and self.trial.should_prune()

    def tell(self) -> bool:
        """Tell what is new; False if nothing is."""
        began, known = time.monotonic(), len(self.told)
        size = self.file.stat().st_size if self.file.exists() else 0
        if size == self.size:
            return False
        self.size = size
        for step, value in sorted(values(self.file, self.metric).items()):
            if step not in self.told:
                self.trial.report(value, step)
                self.told[step] = value
        # A long file takes long to read, and the run needs the processor more.
        self.next_look = time.monotonic() + 20 * (time.monotonic() - began)
        return len(self.told) > known


def values(file: Path, name: str) -> dict[int, float]:
    """A logged value by optimizer step, of the lines of a metrics.csv that are whole."""
    text = file.read_text(encoding="utf-8")
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    found = {int(row["step"]): float(row[name]) for row in rows if row.get(name)}
    return {step: value for step, value in found.items() if math.isfinite(value)}


def _last_words(log: Path, code: int) -> str:
    """Why a run failed, in a line."""
    lines = log.read_text(encoding="utf-8", errors="replace")[-20_000:].splitlines()
    told = [line for line in lines if line.strip()]
    last = next(filter(MISTAKE.match, reversed(told)), (told or [""])[-1]).removeprefix("error: ")
    if code < 0:
        return f"ended by {signal.Signals(-code).name}, perhaps for want of memory ({last})"
    return last or f"exit code {code}"


def stop_with_parent() -> Callable[[], None]:
    """What a new process calls to be sent SIGTERM when this one is gone, however it went."""
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask


@contextmanager
def alone(out: Path) -> Iterator[int]:
    """A lock on a study: the descriptor of its file, which trials inherit.

    So it is held as long as this process or a trial of its lives, and no longer. Where a sweep was
    killed and its trial still lives (to save what it has), wait for that.

    Raises:
        UserError: another sweep has it.
    """
    with (out / "lock").open("a+") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read()
                if owner and _is_alive(int(owner)):
                    raise UserError(
                        f"process {owner} is at work on {out} already: wait, or give another folder"
                    ) from None
                log("waiting for the trial that a killed sweep left behind")
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"can't lock {file.name}: {error.strerror}: give another folder"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
