"""A contestant's side of a contest: it trains the steps that it is asked for, and waits otherwise.

Run as `python -m benchmarks.gate '{"job": "module:function", "arguments": {…}}'`. The function is
called with the gate and its arguments, and trains until the gate ends the process. Lines of JSON
go both ways: the number of steps in, an `Answer` out.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import IO, TypedDict

import torch

from everytoken.runtime.rank import die_with_parent


class Answer(TypedDict):
    """What a contestant answers after its steps."""

    seconds: float
    """Of the steps, whole: data, forward, backward, clipping, optimizer, schedule, logging."""
    cpu_seconds: float
    """Of all threads of the process meanwhile: what it takes however busy the machine is."""
    real: int
    """Tokens that are no padding; of the matmul peak, floating-point operations."""
    positions: int
    """The same with what the model computes of padding."""
    loss: float | None
    """Training loss, as logged last."""
    bytes: int
    """Most device memory ever allocated; 0 on the CPU."""


class Gate:
    """Call `ready` before the first step and `step` after each; both return when to go on.

    Args:
        commands: where numbers of steps come from.
        answers: where answers go to.
    """

    def __init__(self, commands: IO[str], answers: IO[str]) -> None:
        self.commands = commands
        self.answers = answers
        self.left, self.real, self.positions = 0, 0, 0
        self.started, self.cpu_started = 0.0, 0.0

    def ready(self, parameters: int) -> None:
        """Say that everything is built, and wait."""
        self._say({"parameters": parameters})
        self.wait()

    def step(self, real: int, positions: int, loss: Callable[[], float | None]) -> None:
        """Count an optimizer step; after the last one that was asked for, answer and wait."""
        self.real += real
        self.positions += positions
        self.left -= 1
        if self.left == 0:
            seconds = now() - self.started
            self.answer(seconds, self.real, self.positions, loss())

    def answer(self, seconds: float, real: int, positions: int, loss: float | None) -> None:
        """Answer, and wait for the next command."""
        memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        answer = Answer(
            seconds=seconds,
            cpu_seconds=time.process_time() - self.cpu_started,
            real=real,
            positions=positions,
            loss=loss,
            bytes=memory,
        )
        self._say(dict(answer))
        self.wait()

    def wait(self) -> None:
        """Be idle until the parent asks for steps; end the process when it asks for no more."""
        command = self.commands.readline().strip()
        if not command:
            # Not sys.exit: trainers would answer it with checkpoints and farewells.
            os._exit(0)
        self.left, self.real, self.positions = int(command), 0, 0
        self.started, self.cpu_started = now(), time.process_time()

    def _say(self, message: dict[str, object]) -> None:
        self.answers.write(json.dumps(message) + "\n")
        self.answers.flush()


def now() -> float:
    """Seconds, when the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Run the job; what libraries print must not get between the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    die_with_parent(os.getppid())
    task = json.loads(sys.argv[1])
    module, function = task["job"].split(":")
    getattr(import_module(module), function)(Gate(sys.stdin, answers), **task["arguments"])


if __name__ == "__main__":
    main()
