"""Checkpoint files: none is ever lost, and they are read without trusting them.

Every record of torch's zip format has a CRC-32, which is checked before reading, and only plain
tensors and containers are read: a checkpoint can't run code.
"""

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from everytoken.errors import UserError, one_line
from everytoken.run.shard_writer import Saving
from everytoken.run.shards import DAMAGES, FOLDER, KEY, Shards, drop_unused
from everytoken.run.writing import write
from everytoken.runtime.console import log, warn
from everytoken.training.adapted import saved_state


class CheckpointFiles(TorchCheckpointIO):
    """How the Trainer writes and reads checkpoints; writing happens on rank 0.

    A file that can't be written (a full disk, say) doesn't end the training: it is logged in one
    line, the file before stays, and the next save tries again. `failure` tells it to all ranks.
    """

    def __init__(self) -> None:
        self.keep: dict[Path, int] = {}
        """How many files to keep of a path: the newest and its predecessors; 1 if not named."""
        self.failures: dict[Path, str] = {}
        """Why the latest save of a path failed; only of those that did."""
        self.latest: Path | None = None
        self.written: set[Path] = set()
        """What this process has written."""
        self.saving: Saving | None = None
        """What is being written while training goes on, the same on all ranks."""

    @classmethod
    def of(cls, trainer: L.Trainer) -> "CheckpointFiles":
        """Those of a trainer that `build_trainer` made."""
        files = trainer.strategy.checkpoint_io
        assert isinstance(files, cls), "the trainer needs plugins=[CheckpointFiles()]"
        return files

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint, or say why it isn't written."""
        path = Path(path)

        def save() -> None:
            write(checkpoint, path, self.keep.get(path, 1))
            drop_unused(path.parent)

        self._note(path, save)

    def wait_until_copied(self) -> None:
        """Until the tensors that are being written may change."""
        if self.saving is not None:
            self.saving.wait_until_staged()

    def wait(self) -> None:
        """Until nothing is being written in the background, or it is said why it can't be.

        To be called on all ranks.
        """
        saving, self.saving = self.saving, None
        if saving is not None:
            self._note(saving.path, saving.wait)

    def _note(self, path: Path, save: Callable[[], None]) -> None:
        """Save something, and note how that went."""
        self.latest = path
        try:
            save()
        except OSError as error:
            reason = error.strerror or str(error)
            if path not in self.failures:  # once, not at every save while the disk is full
                warn(
                    f"can't save {path} ({reason}): training goes on, and the next save tries again"
                )
            self.failures[path] = reason
        else:
            self.written.add(path)
            if self.failures.pop(path, None):
                log(f"{path} is saved again")

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, to the CPU; raises as `read` does."""
        return read(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove one, unless the one that it makes room for couldn't be saved."""
        if self.latest not in self.failures:
            super().remove_checkpoint(path)
            drop_unused(Path(path).parent)


def failure(trainer: L.Trainer, path: Path) -> str | None:
    """Why the latest save of a path failed, the same on all ranks; None if it didn't.

    To be called on all ranks. Waits for what is being written.
    """
    files = CheckpointFiles.of(trainer)
    files.wait()
    return trainer.strategy.broadcast(files.failures.get(path))


def is_whole(path: Path) -> bool:
    """Whether a checkpoint can be read; if not, why is logged."""
    try:
        verify(path)
    except UserError as error:
        warn(str(error))
        return False
    return True


def verify(path: Path) -> None:
    """Check that a checkpoint is whole, its shards too, and names nothing but plain tensors.

    Raises:
        UserError: no such file, one that is damaged, or one that could run code.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint {path}: has the run trained long enough to save one?")
    try:
        with path.open("rb") as file:
            begin = file.read(2)
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error
    if begin != b"PK" and begin:
        raise UserError(
            f"{path} is no checkpoint of this project: it is not in torch's zip format, and plain "
            "pickles are not read, since they can run code"
        )
    try:
        with zipfile.ZipFile(path) as records:
            # torch compresses nothing, and would read garbage from what is marked as a folder
            odd = (i.filename for i in records.infolist() if i.compress_type or i.external_attr)
            damaged = next(odd, None) or records.testzip()
        unsafe = [] if damaged else get_unsafe_globals_in_checkpoint(str(path))
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, error)) from error
    except DAMAGES as error:
        raise UserError(f"{path} is damaged or cut off: {one_line(error, 150)}") from error
    if damaged:
        raise UserError(f"{path} is damaged: its record {damaged} is not what was written")
    if unsafe:
        raise UserError(_refusal(path, f"it names {', '.join(sorted(unsafe))}"))
    if shards := Shards.of(_loaded(path), path):
        shards.check(path)


def _refusal(path: Path, why: object) -> str:
    return (
        f"{path} is not read, since it could run code ({one_line(why, 150)}): use a checkpoint "
        "that holds plain tensors and containers only"
    )


def read(path: Path, *, mapped: bool = False, weights_only: bool = False) -> dict[str, Any]:
    """A checkpoint, verified, with its tensors on the CPU: in one file or in shards.

    Args:
        path: of the file.
        mapped: True to leave tensors of a file there until they are used.
        weights_only: True to leave out the optimizer's state.

    Raises:
        UserError: as `verify`, or it is not a checkpoint of this project.
    """
    verify(path)
    checkpoint = _loaded(path, mapped=mapped)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"{path} is no checkpoint of this project: it has no state_dict")
    shards = Shards.of(checkpoint, path)
    if weights_only:
        checkpoint.pop("optimizer_states", None)
    return checkpoint if shards is None else shards.whole(checkpoint)


def _loaded(path: Path, *, mapped: bool = True) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (*DAMAGES, pickle.UnpicklingError) as error:
        raise UserError(_refusal(path, error)) from error


def is_sharded(path: Path) -> bool:
    """Whether a checkpoint, verified before, is an index of shards; reads no tensor."""
    return (path.parent / FOLDER).is_dir() and KEY in _loaded(path)


def check_resumable(module: L.LightningModule, path: Path) -> None:
    """Refuse to go on from a checkpoint, verified before, that isn't of this module.

    Raises:
        UserError: with the first weight that differs.
    """
    saved = _loaded(path)  # reads no tensor
    check_fits(module, saved, saved["state_dict"], path)


def step_of(path: Path) -> int:
    """The optimizer step after which a checkpoint, verified before, was saved; reads no tensor."""
    return _loaded(path)["global_step"]


def load_weights(module: L.LightningModule, path: Path, *, is_raw: bool = False) -> str:
    """Fill a module's weights from a checkpoint of the same model.

    Args:
        module: whose they are to be.
        path: of the file.
        is_raw: True for the weights that were trained, where it holds an average of them too.

    Returns:
        What they are, in words.

    Raises:
        UserError: as `read`, or it is a checkpoint of another shape, or has no average.
    """
    checkpoint = read(path, weights_only=True)
    trained = checkpoint.get("current_model_state")
    if is_raw and trained is None:
        raise UserError(
            f"{path} holds no average beside the weights that were trained: leave out raw-"
        )
    weights = trained if is_raw and trained is not None else checkpoint["state_dict"]
    check_fits(module, checkpoint, weights, path)
    module.load_state_dict({**module.state_dict(), **weights})
    kind = "weights" if trained is None else "trained weights" if is_raw else "averaged weights"
    return f"{kind} of step {checkpoint.get('global_step', 'unknown')}"


def check_fits(
    module: L.LightningModule,
    checkpoint: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    path: Path,
) -> None:
    """Refuse weights of a checkpoint that aren't those of a module, or of another base.

    Raises:
        UserError: with the first that differs.
    """
    own = {name: tuple(tensor.shape) for name, tensor in saved_state(module).items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(own.keys() | found.keys()):
        if own.get(name) != found.get(name):
            raise UserError(
                f"{path} holds another model: {name} has shape {found.get(name, 'none')} there and "
                f"{own.get(name, 'none')} in the config: use the run's own config and checkpoint"
            )
    if base := getattr(module, "base", None):
        base.check(checkpoint, path)
