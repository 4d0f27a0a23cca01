"""Writes shards while training goes on, and then the index that names them."""

import os
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse, async_save, save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from everytoken.run.pairs import PairSavePlanner
from everytoken.run.shards import checksum
from everytoken.runtime.together import beat, together

Files = dict[str, tuple[int, int]]
"""Bytes and CRC-32 of files, by name."""

LOOK_SECONDS = 0.5
"""Between two looks at what is being written."""


@dataclass(frozen=True)
class Checked(WriteResult):
    """What was written of a tensor, and what its file is."""

    file: tuple[int, int]


class Writer(FileSystemWriter):
    """Writes one file a rank, and at the end, on the first, the index.

    Args:
        folder: of the shards, which isn't there yet.
        commit: writes the index, given the files; nothing counts before.
    """

    def __init__(self, folder: Path, commit: Callable[[Files], None]) -> None:
        super().__init__(folder)
        self.commit = commit
        self.waits = False
        """True if this rank has written its own."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's tensors, and look at the file again."""
        written = super().write_data(plan, planner).wait()
        names = {result.storage_data.relative_path for result in written}
        files = {name: _file(Path(self.path) / name) for name in names}
        results: Future[list[WriteResult]] = Future()
        results.set_result(
            [
                Checked(
                    r.index, r.size_in_bytes, r.storage_data, files[r.storage_data.relative_path]
                )
                for r in written
            ]
        )
        self.waits = True
        return results

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Describe what all ranks have written, and write the index.

        Raises:
            OSError: some of it isn't seen from here, or the disk is full.
        """
        super().finish(metadata, results)
        files: Files = {".metadata": _file(Path(self.path) / ".metadata")}
        for result in (result for rank in results for result in rank):
            assert isinstance(result, Checked)
            files[result.storage_data.relative_path] = result.file
        for name, (size, _) in files.items():
            if (Path(self.path) / name).stat().st_size != size:
                raise OSError(f"{name} of {self.path} isn't seen from here as it was written")
        for place in (self.path, Path(self.path).parent):
            _sync(Path(place))
        self.commit(files)

    def storage_meta(self) -> StorageMeta:
        """Nothing of this machine, unlike torch's own."""
        return StorageMeta()


@dataclass
class Saving:
    """A checkpoint that is being written."""

    path: Path
    writer: Writer
    staged: "futures.Future[Any] | None"
    """Done when training may change the tensors again."""
    written: "futures.Future[Any]"

    @classmethod
    def begin(
        cls,
        path: Path,
        tensors: dict[str, Tensor],
        writer: Writer,
        group: ProcessGroup,
        *,
        copied: bool,
    ) -> "Saving":
        """Begin to write; all ranks must.

        Args:
            path: of the index.
            tensors: by place.
            writer: writes them.
            group: of all ranks, with a CPU backend, for this alone.
            copied: True to write copies, so that training can go on once they are made.
        """
        settings: dict[str, Any] = {
            "storage_writer": writer,
            "process_group": group,
            "planner": PairSavePlanner(),
        }
        if not copied:
            thread = futures.ThreadPoolExecutor(1)
            written = thread.submit(partial(save, tensors, **settings))
            thread.shutdown(wait=False)
            return cls(path, writer, None, written)
        has_gpu = torch.cuda.is_available()
        if has_gpu:  # copies are made beside the queue in which the last step may still be
            torch.cuda.synchronize()
        stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=has_gpu,
                use_shared_memory=False,
                use_async_staging=True,
                use_non_blocking_copy=has_gpu,
            )
        )
        found = async_save(tensors, async_stager=stager, **settings)
        assert isinstance(found, AsyncSaveResponse)
        written: futures.Future[Any] = futures.Future()

        def end(upload: "futures.Future[Any]") -> None:
            stager.close()
            if (error := upload.exception()) is not None:
                written.set_exception(error)
            else:
                written.set_result(None)

        found.upload_completion.add_done_callback(end)
        # Not the future itself: as long as that is there, so is the copy.
        return cls(path, writer, found.staging_completion, written)

    def wait_until_staged(self) -> None:
        """Until the tensors may be changed."""
        if self.staged is not None:
            self.staged.result()
            self.staged = None

    def wait(self) -> None:
        """Until it is written, on all ranks.

        Raises:
            OSError: it can't be.
        """
        with together(f"saving {self.path}"):
            while not futures.wait([self.written], timeout=LOOK_SECONDS).done:
                if self.writer.waits:
                    beat()
        try:
            self.written.result()
        except CheckpointException as error:
            for cause, _ in error.failures.values():
                if isinstance(cause, OSError):
                    raise cause from None
            raise


def _file(path: Path) -> tuple[int, int]:
    return path.stat().st_size, checksum(path)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
