"""One process or several: starts the ranks of a job on this machine and minds them.

The process that the user started is no rank itself when there are several: it waits, hands signals
on, and stops all ranks when one dies. Ranks run this module and read everything from files, so
they don't interpret the command line again. Under torchrun or srun the ranks exist already.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from omegaconf import DictConfig

from everytoken.errors import BAD_INPUT, INTERRUPTED, UserError

LOST_PEER = re.compile("connection (closed|reset) by peer", re.IGNORECASE)
"""What collectives say when another rank has ended; why, that rank has told."""

GRACE_SECONDS = 20
"""How long ranks may take to stop after one of them has failed."""


def process_count(trainer: DictConfig) -> int:
    """How many processes to start on this machine for a trainer config.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    if trainer.accelerator == "cuda":
        import torch  # only here: it takes seconds

        gpus = torch.cuda.device_count()
        wanted = max(1, gpus) if trainer.devices == "auto" else trainer.devices
        if gpus < wanted:
            raise UserError(
                f"this trainer needs {wanted} CUDA GPU{'s' * (wanted > 1)} and there "
                f"{'is' if gpus == 1 else 'are'} {gpus or 'none'} here: use trainer=auto, "
                "trainer=cpu or trainer=ddp_cpu"
            )
        return wanted
    return 1 if trainer.devices == "auto" else trainer.devices


def is_launched() -> bool:
    """True in a process that torchrun, srun or `launch` started as a rank."""
    return "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def global_rank() -> int:
    """The rank that the launcher gave this process; 0 without one."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def launch(job: str, arguments: dict[str, Any], processes: int) -> None:
    """Run a job in this process, or in `processes` new ones.

    Args:
        job: "module:function".
        arguments: keyword arguments of the function; must survive JSON.
        processes: ranks on this machine.

    Raises:
        SystemExit: a rank failed; with its exit code.
    """
    if processes == 1 or is_launched():
        _call(job, arguments)
        return
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    command = [sys.executable, "-m", "everytoken.launch", job, json.dumps(arguments)]

    def start(rank: int) -> subprocess.Popen:
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        env = {"OMP_NUM_THREADS": threads, **os.environ, **address, **place}
        # A session of their own: the terminal's Ctrl-C reaches the ranks once, through us.
        return subprocess.Popen(command, env=env, start_new_session=True)

    code = Ranks().run(processes, start)
    if code:
        sys.exit(code if code > 0 else 128 - code)  # a negative code is a signal


class Ranks:
    """The processes of a job, watched until all have ended."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen] = []
        self.signals = 0
        self.deadline = float("inf")

    def run(self, count: int, start: Callable[[int], subprocess.Popen]) -> int:
        """Start and watch them; the exit code of the first that failed, or 0."""
        handled = [
            getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)
        ]
        before = {number: signal.signal(number, self._hand_on) for number in handled}
        try:
            for rank in range(count):
                self.processes.append(start(rank))
            failed = 0
            while any(process.poll() is None for process in self.processes):
                if not failed and (failed := self._failure()):
                    self._send(signal.SIGTERM)  # the others may wait for it forever
                    self.deadline = time.monotonic() + GRACE_SECONDS
                if time.monotonic() > self.deadline:
                    self._kill()
                time.sleep(0.1)
            return failed or self._failure()
        finally:
            self._kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hand_on(self, number: int, frame: object) -> None:
        """Ranks stop by themselves; who is stuck is killed after a while, or if asked thrice."""
        self.signals += 1
        self._send(number if number == signal.SIGINT else signal.SIGTERM)
        if number != signal.SIGINT or self.signals > 1:
            self.deadline = min(self.deadline, time.monotonic() + GRACE_SECONDS)
        if self.signals > 2:
            self._kill()

    def _failure(self) -> int:
        codes = [code for process in self.processes if (code := process.poll())]
        # The others fail too, because they lost that rank: its code is the one that tells why.
        return BAD_INPUT if BAD_INPUT in codes else next(iter(codes), 0)

    def _send(self, number: int) -> None:
        for process in self.processes:
            process.send_signal(number)

    def _kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()


def die_with_parent() -> None:
    """End this rank soon after the process that started it is gone, however it went."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(job: str, arguments: dict[str, Any]) -> None:
    module, function = job.split(":")
    getattr(import_module(module), function)(**arguments)


def free_port() -> int:
    """A port of this machine that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    die_with_parent()
    try:
        _call(sys.argv[1], json.loads(sys.argv[2]))
    except UserError as error:
        if global_rank() == 0:
            print(f"error: {error}", file=sys.stderr)
        else:
            time.sleep(3)  # if rank 0 finds the same mistake, it tells, and this rank is stopped
            print(f"error: rank {global_rank()}: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except RuntimeError as error:
        if not LOST_PEER.search(str(error)):
            raise
        print(f"rank {global_rank()} stops, for it has lost another rank", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
