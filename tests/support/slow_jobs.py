"""Jobs of which one rank works longer than the others would wait, for `test_together`."""

import os
import signal
import time
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from everytoken.commands.strategy import Replicas, environment
from everytoken.errors import UserError
from everytoken.runtime.rendezvous import meet
from everytoken.runtime.together import beat, together
from everytoken.runtime.world import global_rank

WAIT_SECONDS = 2


def one_rank(does: str) -> None:
    """Rank 1 does something by which it keeps rank 0 waiting; then both exchange a number."""
    meet(WAIT_SECONDS)
    with together("preparing data"):
        if global_rank() == 1:
            globals()[does]()
    found = torch.ones(())
    torch.distributed.all_reduce(found)
    print(f"both are there: {found:g}")


class SlowFiles(TorchCheckpointIO):
    """Takes longer to write than others would wait."""

    def save_checkpoint(self, *arguments: Any, **settings: Any) -> None:
        """Only rank 0 does."""
        works()


def save() -> None:
    """Rank 0 saves a checkpoint, slowly."""
    meet(WAIT_SECONDS)
    replicas = Replicas(cluster_environment=environment(), checkpoint_io=SlowFiles())
    replicas.set_world_ranks()
    replicas.save_checkpoint({}, "last.ckpt")
    replicas.barrier()
    print("both are there: 2")


def works() -> None:
    """Longer than it may hang."""
    end = time.process_time() + 1.5 * WAIT_SECONDS
    while time.process_time() < end:
        sum(range(1000))


def waits_for_somebody() -> None:
    """The same without any work of its own."""
    for _ in range(8):
        time.sleep(WAIT_SECONDS / 5)
        beat()


def hangs() -> None:
    """Without a sign of life."""
    time.sleep(100)


def is_stopped() -> None:
    """All of its threads."""
    os.kill(os.getpid(), signal.SIGSTOP)


def finds_a_mistake() -> None:
    """One of the user's."""
    raise UserError("mend this")
