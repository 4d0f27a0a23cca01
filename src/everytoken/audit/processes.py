"""The same step and evaluation on several processes of this machine, over gloo: by DDP; and, if it
is to be trained so, by ranks that split matrices.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everytoken.audit.observe import Observed, loader, observe_evaluation, observe_step
from everytoken.audit.subject import PIECES, Subject, ready
from everytoken.data.collate import Example
from everytoken.errors import UserError
from everytoken.run.directory import Run
from everytoken.runtime.launch import free_port, launch
from everytoken.runtime.world import global_rank
from everytoken.tokenizer.tokenizer import Tokenizer

EVALUATION, UNEVEN_EVALUATION = "evaluation", "uneven evaluation"  # on three processes
STEP, UNEVEN_STEP, CLIPPED_STEP = "step", "uneven step", "clipped step"  # on two
SPLIT_STEP = "split step"
"""On two that read different examples times `trainer.tensor_parallel` that split matrices."""
CLIP_NORM = 1e-3
"""Small enough that every gradient is clipped."""


def on_processes(subject: Subject) -> dict[str, Observed]:
    """What is observed by name: dealt out by the user's data module, and in uneven parts.

    The processes are started once for each subject, whether it works or not.

    Raises:
        UserError: one of them failed; it has printed why.
    """
    if subject.on_processes is None:
        try:
            subject.on_processes = _start(subject)
        except UserError as error:
            subject.on_processes = error
    if isinstance(subject.on_processes, Exception):
        raise subject.on_processes
    return subject.on_processes


def _start(subject: Subject) -> dict[str, Observed]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subject.tokenizer.save(folder / "tokenizer.json")
        torch.save(subject.model.state_dict(), folder / "weights.pt")
        named = subject.model.named_parameters()
        torch.save([name for name, weight in named if weight.requires_grad], folder / "trained.pt")
        answered = (subject.answered.example(i) for i in range(len(subject.answered)))
        torch.save([_plain(example) for example in answered], folder / "answered.pt")
        ports = [free_port(), free_port()]
        arguments = {"run_dir": str(subject.run.path), "folder": name, "ports": ports}
        split = subject.run.config.trainer.tensor_parallel
        try:
            launch("everytoken.audit.processes:observe_as_rank", arguments, max(3, 2 * split))
        except SystemExit as error:
            if isinstance(error.code, int) and error.code > 128:
                raise  # a signal: this process was asked to stop
            raise UserError("one of several processes failed, see above") from error
        parts = [EVALUATION, UNEVEN_EVALUATION, STEP, UNEVEN_STEP, CLIPPED_STEP]
        parts += [SPLIT_STEP] * (split > 1)
        return {part: Observed.load(folder / f"{part}.pt") for part in parts}


def observe_as_rank(run_dir: str, folder: str, ports: list[int]) -> None:
    """What each process does: three evaluate, then two train a step, then all that split do so."""
    torch.set_num_threads(1)
    files, rank = Path(folder), global_rank()
    subject = Subject(Run(Path(run_dir)), Tokenizer.load(files / "tokenizer.json"))
    subject.model.load_state_dict(torch.load(files / "weights.pt", weights_only=True))
    trained = torch.load(files / "trained.pt")  # which may depend on what the weights began with
    for name, weight in subject.model.named_parameters():
        weight.requires_grad_(name in trained)
    module, data = subject.module, subject.data
    # Computed anew, they could differ where two tokens are almost equally likely.
    answered = [_example(plain) for plain in torch.load(files / "answered.pt")]
    subject.answered = ready(data.splits["val"], answered)
    found: dict[str, Observed] = {}

    if rank < 3:
        subject.cut(range(len(data.splits["val"])), "val", 3 * PIECES)
        found[EVALUATION] = observe_evaluation(module, 3, datamodule=data)
        mine = [subject.uneven_evaluation()[rank]]
        found[UNEVEN_EVALUATION] = observe_evaluation(module, 3, dataloaders=loader(mine))
        torch.distributed.destroy_process_group()

    subject.cut(subject.first_step, "train", 2 * PIECES)
    if rank < 2:
        os.environ["MASTER_PORT"] = str(ports[0])  # the first one may not be free again yet
        found[STEP] = observe_step(module, 2, datamodule=data)
        least, second, most = subject.uneven_step()
        mine = [[least, subject.micro_batch([])], [second, most]][rank]
        for part, clip_norm in ((UNEVEN_STEP, None), (CLIPPED_STEP, CLIP_NORM)):
            uneven = loader([mine])
            found[part] = observe_step(module, 2, clip_norm, train_dataloaders=uneven)

    split = subject.run.config.trainer.tensor_parallel
    if split > 1 and rank < 2 * split:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        os.environ["MASTER_PORT"] = str(ports[1])
        step = observe_step(module, 2 * split, tensor_parallel=split, datamodule=data)
        found[SPLIT_STEP] = step
    if rank == 0:
        for part, observed in found.items():
            observed.save(files / f"{part}.pt")


def _plain(example: Example) -> dict[str, Any]:
    return {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in vars(example).items()}


def _example(plain: dict[str, Any]) -> Example:
    parts: dict[str, Any] = {n: np.array(v) if isinstance(v, list) else v for n, v in plain.items()}
    return Example(**parts)
