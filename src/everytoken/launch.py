"""One process or several: starts the ranks of a job on this machine and minds them.

The process that the user started is no rank itself when there are several: it waits, hands signals
on, and stops all ranks when one dies. Ranks run this module and read everything from files, so
they don't interpret the command line again. Under torchrun or srun the ranks exist already.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib import import_module
from typing import Any

from omegaconf import DictConfig

from everytoken.errors import BAD_INPUT, UserError

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
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    command = [sys.executable, "-m", "everytoken.launch", job, json.dumps(arguments)]
    ranks = []
    for rank in range(processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        env = {"OMP_NUM_THREADS": threads, **os.environ, **address, **place}
        # A session of their own: the terminal's Ctrl-C reaches the ranks once, through us.
        ranks.append(subprocess.Popen(command, env=env, start_new_session=True))
    code = _mind(ranks)
    if code:
        sys.exit(code if code > 0 else 128 - code)  # a negative code is a signal


def _mind(ranks: list[subprocess.Popen]) -> int:
    """Wait for all ranks; the exit code of the first that failed, or 0."""

    def hand_on(number: int, frame: object) -> None:
        for rank in ranks:
            rank.send_signal(number)

    handled = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, hand_on) for number in handled}
    try:
        failed = 0
        deadline = float("inf")
        while any(rank.poll() is None for rank in ranks):
            failed = failed or next((code for r in ranks if (code := r.poll())), 0)
            if failed and deadline == float("inf"):
                deadline = time.monotonic() + GRACE_SECONDS
                hand_on(signal.SIGTERM, None)  # the others may wait for it forever
            if time.monotonic() > deadline:
                for rank in ranks:
                    rank.kill()
            time.sleep(0.1)
        return failed or next((code for r in ranks if (code := r.poll())), 0)
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _call(job: str, arguments: dict[str, Any]) -> None:
    module, function = job.split(":")
    getattr(import_module(module), function)(**arguments)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    try:
        _call(sys.argv[1], json.loads(sys.argv[2]))
    except UserError as error:
        if global_rank() == 0:
            print(f"error: {error}", file=sys.stderr)
        else:
            time.sleep(3)  # rank 0 finds the same mistake; it must not be stopped before it tells
        sys.exit(BAD_INPUT)
