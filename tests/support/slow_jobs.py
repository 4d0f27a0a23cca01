"""Jobs of which one rank works longer than the others would wait, for `test_together`."""

import os
import signal
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from everytoken.callbacks.patience import EvaluateTogether
from everytoken.commands.strategy import Replicas, environment
from everytoken.errors import UserError
from everytoken.runtime.rendezvous import meet
from everytoken.runtime.together import beat, together
from everytoken.runtime.world import global_rank

WAIT_SECONDS = 2


def one_rank(does: str, rank: int = 1) -> None:
    """It does something by which it keeps the other waiting; then both exchange a number."""
    meet(WAIT_SECONDS)
    torch.distributed.all_reduce(torch.ones(()))  # both have met, not one of them only
    with together("preparing data"):
        if global_rank() == rank:
            globals()[does]()
    found = torch.ones(())
    torch.distributed.all_reduce(found)
    print(f"both are there: {found:g}")


def comes_late() -> None:
    """Rank 1 has something else to do before all do something."""
    meet(WAIT_SECONDS)
    with together("preparing data"):
        pass
    if global_rank() == 1:
        works()
    with together("saving"):
        print("both are there: 2")


def evaluate() -> None:
    """Rank 1 has much longer texts to generate."""
    meet(WAIT_SECONDS)
    waiting, module = EvaluateTogether(), L.LightningModule()
    waiting.on_validation_epoch_start(L.Trainer.__new__(L.Trainer), module)
    if global_rank() == 1:
        works()
    waiting.on_validation_epoch_end(L.Trainer.__new__(L.Trainer), module)
    found = torch.ones(())
    torch.distributed.all_reduce(found)
    print(f"both are there: {found:g}")


def one_after_another() -> None:
    """All of these."""
    for job in (comes_late, evaluate, save):
        job()


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
