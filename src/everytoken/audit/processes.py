"""The same step and evaluation on several processes of this machine, by DDP over gloo."""

import os
import tempfile
from pathlib import Path

import torch

from everytoken.audit.observe import Observed, loader, observe_evaluation, observe_step
from everytoken.audit.subject import Subject
from everytoken.errors import INTERRUPTED, UserError
from everytoken.launch import free_port, global_rank, launch
from everytoken.runs import Run
from everytoken.tokenizer import Tokenizer

EVALUATION, UNEVEN_EVALUATION = "evaluation", "uneven evaluation"  # on three processes
STEP, UNEVEN_STEP = "step", "uneven step"  # on two
PIECES = 3
"""Micro-batches of each process, about, where the data module cuts."""


def on_processes(subject: Subject) -> dict[str, Observed]:
    """What is observed by name: dealt out by the user's data module, and in uneven parts.

    The processes are started once for each subject.

    Raises:
        UserError: one of them failed; it has told why.
    """
    if not subject.on_processes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            subject.tokenizer.save(folder / "tokenizer.json")
            torch.save(subject.model.state_dict(), folder / "weights.pt")
            arguments = {"run_dir": str(subject.run.path), "folder": name, "port": free_port()}
            try:
                launch("everytoken.audit.processes:observe_as_rank", arguments, processes=3)
            except SystemExit as error:
                if error.code == INTERRUPTED:
                    raise
                raise UserError("one of several processes failed, see above") from error
            subject.on_processes |= {
                part: Observed.load(folder / f"{part}.pt")
                for part in (EVALUATION, UNEVEN_EVALUATION, STEP, UNEVEN_STEP)
            }
    return subject.on_processes


def observe_as_rank(run_dir: str, folder: str, port: int) -> None:
    """What each of three processes does: evaluate, then, without the third, train a step."""
    torch.set_num_threads(1)
    files, rank = Path(folder), global_rank()
    subject = Subject(Run.open(Path(run_dir)), Tokenizer.load(files / "tokenizer.json"))
    subject.model.load_state_dict(torch.load(files / "weights.pt", weights_only=True))
    module, data = subject.module, subject.data
    found: dict[str, Observed] = {}

    subject.cut(range(len(data.splits["val"])), "val", 3 * PIECES)
    found[EVALUATION] = observe_evaluation(module, 3, datamodule=data)
    mine = [subject.uneven_evaluation()[rank]]
    found[UNEVEN_EVALUATION] = observe_evaluation(module, 3, dataloaders=loader(mine))
    torch.distributed.destroy_process_group()

    if rank < 2:
        os.environ["MASTER_PORT"] = str(port)  # the first one may not be free again yet
        subject.cut(subject.first_step, "train", 2 * PIECES)
        found[STEP] = observe_step(module, 2, datamodule=data)
        least, second, most = subject.uneven_step()
        mine = [[least, subject.micro_batch([])], [second, most]][rank]
        found[UNEVEN_STEP] = observe_step(module, 2, train_dataloaders=loader([mine]))
    if rank == 0:
        for part, observed in found.items():
            observed.save(files / f"{part}.pt")
