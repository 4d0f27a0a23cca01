"""Writes a checkpoint so that none is ever lost.

A new file gets its name only when it is complete and on the disk, so a crash at any moment leaves
the one before.
"""

import os
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from everytoken.runtime.files import UNFINISHED, Steady, replacing


def write(checkpoint: dict[str, Any], path: Path, keep: int) -> None:
    """Write a checkpoint; what had its name is there, whole, until the new one is.

    Args:
        checkpoint: plain containers and tensors.
        path: its name.
        keep: files to keep, at least 1: `path`, and NAME-1, NAME-2, … that were there before.

    Raises:
        OSError: it can't be written; nothing has changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left_over in path.parent.glob(f"*.ckpt{UNFINISHED}"):  # of a process that was killed
        left_over.unlink()
    # Unlike other files it is on the disk itself before it gets its name, and so is the name: it
    # must outlive the machine's crash.
    with replacing(path, move=partial(_move, keep=keep)) as new, new.open("wb") as file:
        try:
            torch.save(checkpoint, Steady(file))  # pyright: ignore[reportArgumentType]
        except RuntimeError as error:  # torch's own, in the place of the file's
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _move(new: Path, path: Path, keep: int) -> None:
    """Give `new` its name; predecessors move on by one. There is a whole file at any moment."""
    if keep == 1 or not path.exists():
        new.replace(path)
        return
    older = [path.with_stem(f"{path.stem}-{age}") for age in range(keep - 1, 0, -1)]
    for to, predecessor in pairwise(older):
        if predecessor.exists():
            predecessor.replace(to)
    second = older[-1].with_name(older[-1].name + UNFINISHED)
    try:
        second.hardlink_to(path)
    except OSError:  # a file system without links: `path` is missing for a moment
        path.replace(older[-1])
        new.replace(path)
    else:
        new.replace(path)
        second.replace(older[-1])
