"""SIGKILL a run again and again, resume it each time, and compare it with one that was let alone.

    python scripts/evidence/kill_and_resume.py --processes 3 --kills 20
    python scripts/evidence/kill_and_resume.py --processes 2 --frail trainer.log_every_n_steps=5

A reference run trains undisturbed: dropout, averaged weights, several validations that generate.
Then the same run is killed at random moments of its whole life, all its processes at once or just
one of them, and resumed with `resume=DIR`, until it is finished; and so on with further runs until
there were enough kills. Each must end with the same weights, optimizer state, metrics.csv,
summary.json and texts, bit for bit; only timings may differ. Exit code 1 if one doesn't.

With --frail the model has a buffer that each rank feeds with its own micro-batches, some steps give
NaN and are left out, and callbacks of Lightning's own keep their records.
"""

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

SETTINGS = [
    *("logger=none", "callbacks=ema", "callbacks.last_checkpoint.every_n_steps=3"),
    *("model.width=64", "model.ffn_width=96", "data.corpus.train_examples=2000"),
    *("data.corpus.val_examples=400", "data.corpus.test_examples=60", "data.batch_size=64"),
    *("trainer.max_steps=40", "trainer.val_check_interval=10", "trainer.log_every_n_steps=1"),
    *("task.max_new_tokens=12",),
]
FRAIL_FOLDER = Path(__file__).parent / "frail"
FRAIL = [
    *("--config-dir", str(FRAIL_FOLDER), "model=frail", "callbacks=frail"),
    *("trainer.skip_nonfinite_steps=40", "data.microbatch_tokens=512"),
]
TIMINGS = ("seconds", "per_second", "share_of_peak", "memory/")
"""Parts of the names of values that the clock and the machine decide."""

LEARNED = (
    *("state_dict", "current_model_state", "averaging_state", "optimizer_states"),
    *("lr_schedulers", "global_step", "TokenDataModule", "callbacks", "resume"),
)
"""What is compared of checkpoints."""

UNLIKE = ("config.yaml", "run.json", ".lock", "metrics.csv", "summary.json", "report", "log")
"""Beginnings of the names of files that say where and when, or that are compared by their parts."""

PATHS = [FRAIL_FOLDER, *filter(None, [os.environ.get("PYTHONPATH")])]

KILLS_IN_A_RUN = 5
SHARE_AT_START = 0.15
"""Of the kills, those while a process starts: by the clock alone, most would be."""
SHARE_OF_ONE_RANK = 0.3
"""Of the kills of several processes, those of one rank only."""
PATIENCE_SECONDS = 300


class Attempt:
    """A run's process, from its start to its end."""

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.folder = folder
        self.begins_anew = not list(folder.glob("checkpoints/last*.ckpt"))
        self.started = time.monotonic()
        self.log = folder.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "train", *overrides],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS))},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def has_ended(self) -> bool:
        """True if nobody needs to kill it any more."""
        if time.monotonic() - self.started > PATIENCE_SECONDS:
            self.kill(one_rank=False)
            raise SystemExit(f"no end after {PATIENCE_SECONDS} s: see {self.log}")
        return self.process.poll() is not None

    @property
    def lines(self) -> int | None:
        """Lines of metrics.csv; None as long as they may be those of the attempt before."""
        logged = self.log.read_text(errors="replace")
        if "continuing" not in logged and not (self.begins_anew and "lengths of" in logged):
            return None
        file = self.folder / "metrics.csv"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def wait_for(self, lines: int, seconds: float) -> None:
        """Until there are so many lines, and then some time; at most until it has ended."""
        while not self.has_ended and (self.lines or 0) < lines:
            time.sleep(0.01)
        self.wait(seconds)

    def wait(self, seconds: float) -> None:
        """At most until it has ended."""
        until = time.monotonic() + seconds
        while not self.has_ended and time.monotonic() < until:
            time.sleep(0.01)

    def kill(self, one_rank: bool) -> None:
        """SIGKILL all processes, or one rank, whose fellows then stop."""
        ranks = [pid for pid in children(self.process.pid) if is_rank(pid)]
        for pid in ranks[-1:] if one_rank else [self.process.pid, *ranks]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def is_rank(pid: int) -> bool:
    """True for a rank that `launch` started."""
    try:
        return b"everytoken.runtime.rank" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def place(attempt: Attempt) -> str:
    """Where a kill has hit, according to its files."""
    folder = attempt.folder
    if list(folder.glob("checkpoints/*.tmp")):
        return "while saving"
    if attempt.lines is None:
        return "start-up"
    last = folder / "checkpoints" / "last.ckpt"
    rows = read_metrics(folder)
    step = rows[-1]["step"] if rows else 0
    if not last.exists():
        return f"step {step}, before the first checkpoint"
    saved = torch.load(last, weights_only=True)
    if saved["resume"]["ended_at"] is not None:
        return "test"
    is_open = len(rows) == saved["resume"]["metrics_lines"]
    if saved["resume"]["is_due"] and is_open:
        return f"validation of step {step}"
    return f"after step {step}"


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """metrics.csv without timings; nothing if there is none yet."""
    file = folder / "metrics.csv"
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return [without_timings(row) for row in csv.DictReader(lines)]


def without(value: Any, folder: Path) -> Any:
    """A structure in which no timing is and the folder isn't named."""
    if isinstance(value, dict):
        found = without_timings(value)
        return {without(key, folder): without(part, folder) for key, part in found.items()}
    if isinstance(value, list | tuple):
        return [without(part, folder) for part in value]
    return value.replace(str(folder), "") if isinstance(value, str) else value


def without_timings(values: dict[str, Any]) -> dict[str, Any]:
    """What the clock doesn't decide."""
    return {k: v for k, v in values.items() if not any(part in str(k) for part in TIMINGS)}


def everything(folder: Path) -> dict[str, Any]:
    """All that a run leaves and that must be the same."""
    found: dict[str, Any] = {"metrics.csv": read_metrics(folder)}
    found["summary.json"] = without_timings(json.loads((folder / "summary.json").read_text()))
    for file in sorted(folder.glob("checkpoints/*.ckpt")):
        if file.stem == "last-1":  # an end that is reached twice is saved twice
            continue
        checkpoint = torch.load(file, weights_only=True)
        learned = {key: checkpoint[key] for key in LEARNED if key in checkpoint}
        counted = checkpoint["throughput"]
        learned["counts"] = [counted[key][:2] for key in ("since_logged", "total")]
        found[file.name] = without(learned, folder)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(file.relative_to(folder))
        if not name.startswith((*UNLIKE, "checkpoints")):
            found[name] = file.read_bytes()
    return found


def differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Where two structures differ in anything, the order of keys included."""
    if isinstance(a, dict) and isinstance(b, dict) and list(a) == list(b):
        for key in a:
            yield from differences(a[key], b[key], f"{where} {key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for index, pair in enumerate(zip(a, b, strict=True)):
            yield from differences(*pair, f"{where} {index}")
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or not same(a, b):
            yield where
    elif a != a and b != b:
        return
    elif type(a) is not type(b) or a != b:
        yield f"{where}: {str(a)[:60]} and {str(b)[:60]}"


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bit for bit, but for the bits of a NaN, which steps that are left out log."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def timeline(folder: Path, overrides: list[str]) -> list[tuple[float, int]]:
    """Make the reference run: seconds since its start, and the lines of metrics.csv then."""
    attempt = Attempt(folder, overrides)
    seen: list[tuple[float, int]] = []
    while not attempt.has_ended:
        if (lines := attempt.lines) is not None and (not seen or seen[-1][1] != lines):
            seen.append((time.monotonic() - attempt.started, lines))
        time.sleep(0.01)
    if attempt.process.returncode:
        raise SystemExit(f"the reference run failed: see {attempt.log}")
    return [*seen, (time.monotonic() - attempt.started, seen[-1][1])]


def moments(life: list[tuple[float, int]], count: int) -> list[tuple[int, float]]:
    """Random moments after start-up, in order: lines of metrics.csv, and seconds after them."""
    drawn = sorted(random.uniform(life[0][0], life[-1][0]) for _ in range(count))
    found = []
    for moment in drawn:
        seconds, lines = max(point for point in life if point[0] <= moment)
        found.append((lines, moment - seconds))
    return found


def killed_run(
    folder: Path, overrides: list[str], life: list[tuple[float, int]], kills: int, several: bool
) -> int:
    """Start a run, kill and resume it, let it finish; how many kills hit."""
    hits = 0
    attempt = Attempt(folder, overrides)
    for lines, seconds in moments(life, kills):
        if random.random() < SHARE_AT_START:
            attempt.wait(random.uniform(0, life[0][0]))
        else:
            attempt.wait_for(lines, seconds)
        if attempt.has_ended:
            break
        one_rank = several and random.random() < SHARE_OF_ONE_RANK
        attempt.kill(one_rank)
        hits += 1
        print(
            f"  kill {hits} {'of one rank ' if one_rank else ''}hit: {place(attempt)}", flush=True
        )
        if (folder / "summary.json").exists():
            return hits
        is_run = (folder / "config.yaml").exists() and (folder / "run.json").exists()
        frail = [word for word in overrides if word in FRAIL[:2]]
        attempt = Attempt(folder, [f"resume={folder}", *frail] if is_run else overrides)
    while not attempt.has_ended:
        time.sleep(0.05)
    if attempt.process.returncode:
        raise SystemExit(f"resuming failed: {attempt.log.read_text(errors='replace')[-2000:]}")
    return hits


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--processes", type=int, default=1, help="ranks of a run, on the CPU")
    parser.add_argument("--kills", type=int, default=20, help="how many in all")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    parser.add_argument("--folder", type=Path, help="where runs are kept; a temporary one else")
    parser.add_argument("--frail", action="store_true", help="a model that is hard to resume")
    parser.add_argument("settings", nargs="*", help="more of python -m train, KEY=VALUE")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    folder: Path = (arguments.folder or Path(tempfile.mkdtemp())).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    several = arguments.processes > 1
    machine = ["trainer=ddp_cpu", f"trainer.devices={arguments.processes}"]
    frail = FRAIL if arguments.frail else []
    settings = [*(machine if several else ["trainer=cpu"]), *SETTINGS, *frail, *arguments.settings]
    reference = folder / "reference"
    started = time.monotonic()
    life = timeline(reference, [*settings, f"hydra.run.dir={reference}"])
    expected = everything(reference)
    print(
        f"reference: {life[0][0]:.1f} s of start-up, {life[-1][0] - life[0][0]:.1f} s of training, "
        f"validation and test, {len(expected['metrics.csv'])} lines of metrics.csv",
        flush=True,
    )
    hits = exact = 0
    while hits < arguments.kills:
        run = folder / f"killed-{hits + 1}"
        overrides = [*settings, f"hydra.run.dir={run}"]
        kills = min(KILLS_IN_A_RUN, arguments.kills - hits)
        hit = killed_run(run, overrides, life, kills, several)
        found = list(differences(expected, everything(run)))
        print(f"{run.name}, killed {hit} times: {'; '.join(found[:3]) or 'bit-exact'}", flush=True)
        hits += hit
        exact += 0 if found else hit
    print(f"{time.monotonic() - started:.0f} s, {arguments.processes} processes")
    print(f"{exact} of {hits} kills: {'bit-exact' if exact == hits else 'NOT bit-exact'}")
    if not arguments.folder:
        shutil.rmtree(folder)
    sys.exit(0 if exact == hits else 1)


if __name__ == "__main__":
    main()
