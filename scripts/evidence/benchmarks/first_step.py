"""From the command to the end of the first step, beside what importing alone takes; in turn."""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L

from benchmarks.contest import environment

TRAIN = ("-m", "train", "logger=none", "+callbacks.leave._target_=benchmarks.first_step.Leave")
COMMANDS: dict[str, tuple[str, ...]] = {
    "import torch": ("-c", "import torch"),
    "import lightning": ("-c", "import lightning"),
    "python -m train, to its first step": TRAIN,
}
Taken = dict[str, dict[str, list[float]]]
"""Seconds on the clock and of the CPU by command, a number for each round."""


class Leave(L.Callback):
    """Ends the process when the first step has ended."""

    def on_train_batch_end(self, *_: Any) -> None:
        """Without farewells, which belong to no step."""
        os._exit(0)


def first_step(rounds: int, threads: int, folder: Path) -> Taken:
    """Run all commands in turn; a run before them fills the caches.

    Args:
        rounds: of each command.
        threads: of each process.
        folder: scratch space, with the tokenized examples.
    """
    taken: Taken = {name: {"seconds": [], "cpu_seconds": []} for name in COMMANDS}
    _run(TRAIN, threads, folder)
    for _ in range(rounds):
        for name, words in COMMANDS.items():
            for key, value in _run(words, threads, folder).items():
                taken[name][key].append(value)
    return taken


def medians(taken: Taken) -> list[tuple[str, float, float]]:
    """Of each command, on the clock and of the CPU."""
    return [(name, median(t["seconds"]), median(t["cpu_seconds"])) for name, t in taken.items()]


def _run(words: tuple[str, ...], threads: int, folder: Path) -> dict[str, float]:
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=environment(threads, folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"python {' '.join(words)} ended with {process.returncode}")
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime}
