"""A few steps of training, for tests of what happens around them."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from everytoken.batch import Batch
from everytoken.callbacks.stop import keep_signals
from everytoken.data.collate import filler
from everytoken.decoding.sampling import Greedy
from everytoken.run.checkpoint_file import CheckpointFiles, read
from everytoken.tokenizer.special import SpecialIds
from everytoken.training.module import TokenModule
from everytoken.training.schedule import constant
from support.helpers import make_batch, make_model

STEPS = 5

Module = TypeVar("Module", bound=TokenModule)


def make_module() -> TokenModule:
    return make_own(TokenModule)


def make_own(kind: Callable[..., Module], **own: Any) -> Module:
    """A module of any class, with its own arguments and perhaps others of ours."""
    parts = {
        "model": make_model("decoder"),
        "optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1),
        "scheduler": lambda optimizer, total_steps: constant(optimizer, total_steps, 0.0),
        "total_steps": STEPS,
        "seed": 1,
        "label_smoothing": 0.0,
        "z_loss": 0.0,
        "clip_norm": None,
        "special": SpecialIds(0, 1, 2, 3, 4),
        "decode": str,
        "max_new_tokens": None,
        "decoding": Greedy(),
        "more_metrics": {},
    }
    return kind(**parts | own)


def steps() -> list[list[Batch]]:
    """Two micro-batches a step, and a filler in each."""
    return [
        [make_batch([3, 5], seed=i), make_batch([2], seed=i + 100), filler(0, with_source=False)]
        for i in range(STEPS)
    ]


def fit(
    folder: Path,
    *callbacks: L.Callback,
    validate_every: int | None = None,
    stop: int = STEPS,
    resume: bool = False,
    module: TokenModule | None = None,
    logger: Logger | list[Logger] | None = None,
) -> tuple[L.Trainer, TokenModule]:
    """A fit of at most five steps, of which every second is logged.

    Args:
        folder: of the run.
        callbacks: what is tested.
        validate_every: steps between validations.
        stop: after which step.
        resume: from the folder's last checkpoint.
        module: one with other settings.
        logger: for callbacks that need one, or several.
    """
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=stop,
        val_check_interval=validate_every,
        check_val_every_n_epoch=None if validate_every else 1,
        num_sanity_val_steps=0,
        log_every_n_steps=2,
        logger=logger or False,
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        plugins=[CheckpointFiles()],
    )
    module = module or make_module()
    last = folder / "checkpoints" / "last.ckpt"
    done = read(last)["global_step"] if resume else 0
    batches: Any = 2 * steps()  # as in a run, whose epochs have no end
    keep_signals(trainer).fit(
        module,
        DataLoader(batches[done:], batch_size=None),
        DataLoader(batches[0], batch_size=None) if validate_every else None,
        ckpt_path=last if resume else None,
        weights_only=True,
    )
    return trainer, module


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can be longer than 1,000 bytes: the write that goes beyond fails, half done."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
