"""The checkpoint from which a run goes on."""

import os
from pathlib import Path
from typing import Any

import lightning as L
import torch

from everytoken.errors import UserError
from everytoken.run.checkpoint_file import is_whole


def newest_good(folder: Path) -> Path | None:
    """The newest of last.ckpt and its predecessors that is whole; None if there is none yet.

    Those that are damaged are logged, a line each.

    Raises:
        UserError: some are there, or were, and none can be read: to begin anew would lose them.
    """
    found = _saved(folder)
    last = [folder / "last.ckpt"] * ("last.ckpt" in found)
    older = [folder / name for name in found if name.startswith("last-") and name.endswith(".ckpt")]
    ages = {int(age): path for path in older if (age := path.stem.removeprefix("last-")).isdigit()}
    candidates = last + [ages[age] for age in sorted(ages)]
    newest = next((path for path in candidates if is_whole(path)), None)
    if newest is None and candidates:
        names = " and ".join(path.name for path in candidates)
        raise UserError(
            f"{folder} has {names}, and none can be read: mend or restore one to go on from it, or "
            "remove them to train from the first step again"
        )
    if newest is None and "best.ckpt" in found:
        raise UserError(
            f"{folder} has best.ckpt, but no last.ckpt to go on from: restore that, or start a new "
            "run"
        )
    return newest


def data_state(checkpoint: Path, data: L.LightningDataModule) -> dict[str, Any]:
    """What a checkpoint, verified before, keeps of a data module; reads no tensor."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return saved.get(type(data).__qualname__, {})


def _saved(folder: Path) -> list[str]:
    """Names of what is in a folder of checkpoints.

    Raises:
        UserError: there is one, but it can't be looked into.
    """
    try:
        return os.listdir(folder)
    except FileNotFoundError as error:
        if folder.is_symlink():
            raise UserError(
                f"{folder} is a link to {folder.readlink()}, which isn't there: mount its disk"
            ) from error
        return []
    except OSError as error:
        raise UserError(f"can't read {folder}: {error.strerror}") from error
