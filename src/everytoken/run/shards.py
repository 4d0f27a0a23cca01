"""Sharded checkpoints: each rank writes what it has, and a file says what belongs together.

That file, the index, has the checkpoint's name and all of it but the sharded tensors, of which it
has shape and dtype (they are on the meta device). Their values are beside it, in a folder of
`shards/`, in the format of torch.distributed.checkpoint. The index is written last, as any
checkpoint is: what its name stands for is whole at any moment.
"""

import pickle
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import metadata as descriptions
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load

from everytoken.errors import UserError, one_line
from everytoken.run.pairs import PairLoadPlanner

KEY = "shards"
"""In an index: the folder, its files with their bytes and CRC-32, and which tensors are others."""

FOLDER = "shards"
"""Beside the indexes: all of their folders."""

DAMAGES = (zipfile.BadZipFile, RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError)
"""What zipfile and torch raise for a file that is not as it was written."""

CHUNK = 1 << 24
"""Bytes that are read at a time."""


def mapped(tree: Any, change: Callable[[str, Tensor], Any], place: str = "") -> Any:
    """A tree of dicts and lists with what a function makes of its tensors and their places.

    Args:
        tree: of plain values; what isn't a tensor stays.
        change: is called with "state_dict/model.embedding.weight", say, and the tensor.
        place: of the tree.
    """
    if isinstance(tree, Tensor):
        return change(place, tree)
    if isinstance(tree, Mapping):
        return {k: mapped(v, change, f"{place}/{k}" if place else str(k)) for k, v in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(mapped(v, change, f"{place}/{i}") for i, v in enumerate(tree))
    return tree


@dataclass
class Shards:
    """What an index says of its shards."""

    folder: Path
    files: dict[str, tuple[int, int]]
    """Bytes and CRC-32 of each, by name."""
    same: dict[str, str]
    """Places of tensors that are those of another place: tied weights."""

    @classmethod
    def of(cls, checkpoint: object, path: Path) -> "Shards | None":
        """Those of a checkpoint that was read from a path; None if it is whole.

        Raises:
            UserError: what it says makes no sense.
        """
        if not isinstance(checkpoint, Mapping) or (said := checkpoint.get(KEY)) is None:
            return None
        try:
            name, files, same = str(said["folder"]), dict(said["files"]), dict(said["same"])
        except (TypeError, LookupError, ValueError) as error:
            raise UserError(f"{path} is damaged: it doesn't say what its shards are") from error
        if any(Path(str(part)).name != part for part in (name, *files)):
            raise UserError(f"{path} names shards outside of its folder: it isn't read")
        return cls(path.parent / FOLDER / name, files, same)

    def check(self, path: Path) -> None:
        """Refuse shards that aren't what was written, or that could run code.

        Raises:
            UserError: the first that is missing or damaged; or what it names.
        """
        for name, (size, crc) in self.files.items():
            file = self.folder / name
            if not file.is_file():
                raise UserError(
                    f"{path} is an index of shards, and {file} isn't there: keep them together, or "
                    "make one file of both with scripts/merge_checkpoint.py"
                )
            try:
                found = file.stat().st_size, checksum(file)
            except OSError as error:
                raise UserError(f"can't read {file}: {error.strerror}") from error
            if found != (size, crc):
                raise UserError(f"{file} is damaged or cut off, and {path} with it")
        try:
            Reader(self.folder).read_metadata()
        except (*DAMAGES, pickle.UnpicklingError, AttributeError) as error:
            raise UserError(
                f"the shards of {path} are not read, since they could run code "
                f"({one_line(error, 150)})"
            ) from error

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Give tensors, whole or sharded in any way, the values that were saved at their places.

        Raises:
            UserError: they can't be read.
        """
        wanted = {self.same.get(place, place): tensor for place, tensor in tensors.items()}
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*in a single process.*")
                # No rank needs the others for it.
                reader = Reader(self.folder)
                load(dict(wanted), storage_reader=reader, planner=PairLoadPlanner(), no_dist=True)
        except CheckpointException as error:
            [cause, *_] = (cause for cause, _ in error.failures.values())
            raise UserError(f"can't read {self.folder}: {one_line(cause, 300)}") from error

    def whole(self, index: dict[str, Any]) -> dict[str, Any]:
        """The checkpoint of an index, with all of its tensors on the CPU."""
        tensors: dict[str, Tensor] = {}

        def put(place: str, tensor: Tensor) -> Tensor:
            if not tensor.is_meta:
                return tensor
            place = self.same.get(place, place)
            if place not in tensors:
                tensors[place] = torch.empty_like(tensor, device="cpu")
            return tensors[place]

        filled = mapped({key: part for key, part in index.items() if key != KEY}, put)
        self.fill(tensors)
        return filled


def drop_unused(folder: Path) -> None:
    """Remove the shards that no checkpoint of a folder names any more.

    None are removed as long as one of them can't be read.
    """
    if not (home := folder / FOLDER).is_dir():
        return
    used = set()
    for path in folder.glob("*.ckpt"):
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (*DAMAGES, pickle.UnpicklingError):
            return
        if shards := Shards.of(checkpoint, path):
            used.add(shards.folder)
    for left_over in set(home.iterdir()) - used:
        shutil.rmtree(left_over, ignore_errors=True)
    if not used:
        home.rmdir()


def checksum(file: Path) -> int:
    """CRC-32 of a file.

    Raises:
        OSError: it can't be read.
    """
    crc = 0
    with file.open("rb") as opened:
        while content := opened.read(CHUNK):
            crc = zlib.crc32(content, crc)
    return crc


class Reader(FileSystemReader):
    """Reads shards; what describes them is a pickle, and this one can't run code."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What is where.

        Raises:
            UnpicklingError: it names anything but plain descriptions.
        """
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = Plain(file).load()
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


class Plain(pickle.Unpickler):
    """Loads descriptions of tensors and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """A class that is allowed."""
        if module == "torch" and isinstance(found := getattr(torch, name, None), PLAIN):
            return found
        if (module, name) in ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


PLAIN = (torch.dtype, torch.layout, torch.memory_format)

ALLOWED = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    *((descriptions.__name__, name) for name in ("_MEM_FORMAT_ENCODING", *descriptions.__all__)),
}
