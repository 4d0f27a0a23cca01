"""One process or several: starts the ranks of a job on this machine and minds them.

The process that the user started is no rank itself when there are several: it waits, hands signals
on, and stops all ranks when one dies. Ranks run `rank` and read everything from files, so they
don't interpret the command line again. Under torchrun or srun the ranks exist already.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from everytoken.errors import BAD_INPUT, FAILURE, UserError
from everytoken.runtime.rank import call
from everytoken.runtime.redact import print_error
from everytoken.runtime.rendezvous import meet
from everytoken.runtime.settings import cores
from everytoken.runtime.signals import EXIT_CODES
from everytoken.runtime.world import World, check_started, world

GRACE_SECONDS = 20
"""How long ranks may take to end after one of them has failed."""

CAUSE_SECONDS = 2
"""How long one that failed first may take to end after the others, which lost it."""

STOP_SECONDS = 45
"""How long they may take after one of them has stopped, as all were asked to; trackers upload."""


def process_count(trainer: DictConfig) -> int:
    """How many processes work on this machine: as torchrun or srun say, or else the config.

    Raises:
        UserError: there aren't so many GPUs, or nobody starts the processes.
    """
    here = world()
    if here is None:
        check_started()
        if trainer.num_nodes > 1:
            raise UserError("trainer.num_nodes > 1 needs torchrun or srun to start the ranks")
    elif trainer.num_nodes not in (1, here.nodes):
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes}, and ranks were started on {here.nodes} "
            f"machine{'s' * (here.nodes > 1)}: start them on all, or leave it out"
        )
    if trainer.accelerator == "cuda":
        import torch  # only here: it takes seconds

        gpus = torch.cuda.device_count()
        if here is not None:
            _check_gpus(here, gpus)
            return here.local_size
        wanted = max(1, gpus) if trainer.devices == "auto" else trainer.devices
        if gpus < wanted:
            raise UserError(
                f"this trainer needs {wanted} CUDA GPU{'s' * (wanted > 1)} and there "
                f"{'is' if gpus == 1 else 'are'} {gpus or 'none'} here: use trainer=auto, "
                "trainer=cpu or trainer=ddp_cpu"
            )
        return wanted
    if here is not None:
        return here.local_size
    return 1 if trainer.devices == "auto" else trainer.devices


def _check_gpus(here: World, gpus: int) -> None:
    if gpus < here.local_size:
        raise UserError(
            f"{here.local_size} ranks were started on this machine, and rank {here.rank} sees "
            f"{gpus or 'no'} GPU{'s' * (gpus != 1)}: start as many as there are, and under SLURM "
            "give --gpus-per-node, not --gpus-per-task; or use trainer=cpu"
        )


def launch(
    job: str,
    arguments: dict[str, Any],
    processes: int,
    if_killed: str = "lower its memory",
    wait_seconds: float = 300,
) -> None:
    """Run a job in this process, or in `processes` new ones.

    Args:
        job: "module:function".
        arguments: keyword arguments of the function; must survive JSON.
        processes: ranks on this machine.
        if_killed: what to do if the machine runs out of memory.
        wait_seconds: how long a rank may keep the others waiting.

    Raises:
        RunError: this process is the only one, or a rank, and has lost another one.
        SystemExit: a rank failed; with its exit code.
    """
    if world() is not None:
        meet(wait_seconds)
        call(job, arguments)
        return
    if processes == 1:
        call(job, arguments)
        return
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
    threads = str(max(1, cores() // processes))
    command = [sys.executable, "-m", "everytoken.runtime.rank", job, json.dumps(arguments)]
    command.append(str(os.getpid()))

    def start(rank: int) -> subprocess.Popen:
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        env = {"OMP_NUM_THREADS": threads, **os.environ, **address, **place}
        # A session of their own: the terminal's Ctrl-C reaches the ranks once, through us. They
        # get what is open to be inherited: the lock of a run lives as long as one of them does.
        return subprocess.Popen(command, env=env, start_new_session=True, close_fds=False)

    if code := Ranks(if_killed).run(processes, start):
        sys.exit(code)


class Ranks:
    """The processes of a job, watched until all have ended.

    Args:
        if_killed: what to do if the machine runs out of memory.
    """

    def __init__(self, if_killed: str) -> None:
        self.if_killed = if_killed
        self.processes: list[subprocess.Popen] = []
        self.received: list[int] = []
        self.deadline = float("inf")

    def run(self, count: int, start: Callable[[int], subprocess.Popen]) -> int:
        """Start and watch them; the exit code of the first that failed, or 0."""
        handled = [n for n in EXIT_CODES if signal.getsignal(n) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._hand_on) for number in handled}
        try:
            for rank in range(count):
                if not self.received:
                    self.processes.append(start(rank))
            code = 0
            while any(process.poll() is None for process in self.processes):
                if not code and (code := self._failure()):
                    self._send(signal.SIGTERM)  # the others may wait for it forever
                    self._end_within(STOP_SECONDS if code in EXIT_CODES.values() else GRACE_SECONDS)
                if time.monotonic() > self.deadline:
                    self._kill(tell=True)
                time.sleep(0.1)
            code = code or self._failure()
            if not code and len(self.processes) < count:
                code = EXIT_CODES[self.received[0]]
            return code
        finally:
            self._kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hand_on(self, number: int, frame: object) -> None:
        """Ranks stop by themselves, however long their step takes, or at once at a second Ctrl-C.

        Who is stuck is killed a while after that, or at the third.
        """
        self.received.append(number)
        self._send(number)
        times = self.received.count(signal.SIGINT)
        if times == 2:
            self._end_within(GRACE_SECONDS)
        elif times > 2:
            self._kill()

    def _failure(self) -> int:
        """The exit code of the rank that failed and tells most; 0 if none has failed yet."""
        codes = self._codes()
        if codes and all(map(_is_vague, codes.values())):
            time.sleep(CAUSE_SECONDS)
            codes = self._codes()
        if not codes:
            return 0
        rank = min(codes, key=lambda rank: (codes[rank] != BAD_INPUT, _is_vague(codes[rank])))
        code = codes[rank]
        if code > 0 or -code in EXIT_CODES:  # before the rank heard signals, it died of them
            return code if code > 0 else EXIT_CODES[-code]
        number = signal.Signals(-code)
        why = f": the machine may have run out of memory, {self.if_killed}"
        print_error(f"rank {rank} was ended by {number.name}{why * (number == signal.SIGKILL)}")
        return 128 - code

    def _codes(self) -> dict[int, int]:
        """The exit codes of the ranks that have failed."""
        return {r: code for r, each in enumerate(self.processes) if (code := each.poll())}

    def _end_within(self, seconds: float) -> None:
        self.deadline = min(self.deadline, time.monotonic() + seconds)

    def _send(self, number: int) -> None:
        for process in self.processes:
            process.send_signal(number)

    def _kill(self, tell: bool = False) -> None:
        for rank, process in enumerate(self.processes):
            if process.poll() is None:
                process.kill()
                process.wait()
                if tell:
                    print_error(f"rank {rank} hung and was killed")


def _is_vague(code: int) -> bool:
    """True for an exit code that a rank may have only because another one is gone."""
    return code == FAILURE


def free_port() -> int:
    """A port of this machine that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
