"""Contestants in processes of their own, of which one runs at a time, in turn.

So none inherits another's allocator, threads or autocast state, and what else the machine does
meets all of them alike.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from rich.console import Console

console = Console(highlight=False, markup=False, soft_wrap=True)
"""Not everytoken's, which imports Lightning: contestants do that, their parent need not."""
Family = Literal["peak", "plain", "hugging face", "everytoken"]


@dataclass(frozen=True)
class Contestant:
    """Somebody who trains."""

    name: str
    family: Family
    job: str
    """"module:function", called with a `Gate` and the arguments."""
    arguments: dict[str, Any]
    """Must survive JSON."""
    flops: float
    """Model FLOPs of a real token, forward and backward, on average over the corpus."""


@dataclass
class Measured:
    """What one contestant did."""

    contestant: Contestant
    parameters: int
    rounds: list[dict[str, Any]] = field(default_factory=list)
    """An `Answer` for each round."""

    def rates(self) -> list[float]:
        """Real tokens per second (of the peak: FLOP/s), round by round."""
        return [answer["real"] / answer["seconds"] for answer in self.rounds]

    @property
    def rate(self) -> float:
        """The median of the rounds."""
        return median(self.rates())

    def ratio(self, other: "Measured") -> float:
        """To another's rate: the median of each round's, for a round's load was common to both."""
        return median(a / b for a, b in zip(self.rates(), other.rates(), strict=True))

    @property
    def fill(self) -> float:
        """Real tokens divided by computed positions."""
        real, positions = (sum(r[k] for r in self.rounds) for k in ("real", "positions"))
        return real / positions

    @property
    def losses(self) -> tuple[float | None, float | None]:
        """Training loss in the first round after which one was logged, and in the last."""
        logged = [answer["loss"] for answer in self.rounds if answer["loss"] is not None]
        return (logged[0], logged[-1]) if logged else (None, None)


class Process:
    """A contestant's process."""

    def __init__(self, contestant: Contestant, threads: int, folder: Path) -> None:
        self.name = contestant.name
        self.log = folder / f"{''.join(c if c.isalnum() else '-' for c in self.name)}.log"
        task = json.dumps({"job": contestant.job, "arguments": contestant.arguments})
        with self.log.open("w") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gate", task],
                env=environment(threads, folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the parent only
                text=True,
                cwd=folder,
            )
        self.first = self._read()
        """Its first line: it is ready."""

    def go(self, steps: int) -> dict[str, Any]:
        """Have it train; its `Answer`."""
        assert self.popen.stdin is not None
        try:
            self.popen.stdin.write(f"{steps}\n")
            self.popen.stdin.flush()
        except BrokenPipeError:
            pass  # reading raises, with the reason
        return self._read()

    def end(self) -> None:
        """No more steps."""
        assert self.popen.stdin is not None
        try:
            self.popen.stdin.close()
            self.popen.wait(5)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.popen.kill()

    def _read(self) -> dict[str, Any]:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            self.popen.wait()
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])
            raise RuntimeError(f"{self.name} ended with exit code {self.popen.returncode}:\n{tail}")
        return json.loads(line)


def environment(threads: int, folder: Path) -> dict[str, str]:
    """Variables of every contestant.

    Args:
        threads: of each process.
        folder: scratch space.
    """
    scripts = str(Path(__file__).parents[1])
    fixed = {
        "PYTHONPATH": os.pathsep.join(filter(None, [scripts, os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": str(folder / "cache"),  # not the user's own
    }
    return {**os.environ, **fixed}


def contest(
    contestants: Sequence[Contestant],
    *,
    rounds: int,
    steps: int,
    warm_up: int,
    threads: int,
    folder: Path,
) -> list[Measured]:
    """Let all train in turn, in another order each round; Ctrl-C keeps the rounds that are whole.

    Args:
        contestants: who.
        rounds: how often each.
        steps: optimizer steps in a round.
        warm_up: optimizer steps before, which don't count.
        threads: of each process.
        folder: scratch space, also for what contestants print.

    Raises:
        RuntimeError: one failed; with the end of what it printed.
    """
    processes: list[Process] = []
    try:
        for contestant in contestants:
            started = time.perf_counter()
            processes.append(Process(contestant, threads, folder))
            if warm_up:
                processes[-1].go(warm_up)
            seconds = time.perf_counter() - started
            console.print(f"  {contestant.name} is ready after {seconds:.0f} s")
        found = [
            Measured(c, p.first["parameters"]) for c, p in zip(contestants, processes, strict=True)
        ]
        for number in range(rounds):
            started = time.perf_counter()
            try:
                for place in range(len(contestants)):
                    turn = (place + number) % len(contestants)
                    found[turn].rounds.append(processes[turn].go(steps))
            except KeyboardInterrupt:
                if number == 0:
                    raise
                console.print(f"  stopped: {number} of {rounds} rounds")
                for measured in found:
                    del measured.rounds[number:]
                break
            seconds = time.perf_counter() - started
            console.print(f"  round {number + 1} of {rounds}: {seconds:.0f} s")
        return found
    finally:
        for process in processes:
            process.end()
