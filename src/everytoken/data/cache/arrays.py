"""Arrays in files, read a part at a time."""

import io
import json
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from everytoken.data.cache.folder import CHECKSUMS, StoreError


class File:
    """An array in a file.

    Args:
        file: open, and never moved in.
        dtype: of the array.
        begin: where it begins, in bytes.
        size: its bytes.
    """

    def __init__(self, file: io.FileIO, dtype: str, begin: int, size: int) -> None:
        self.dtype = np.dtype(dtype)
        self.file = file
        self.begin = begin
        self.size = size

    def read(self, begin: int, end: int) -> NDArray[Any]:
        """A copy of a part."""
        offset, size = begin * self.dtype.itemsize, (end - begin) * self.dtype.itemsize
        # Not seek and read: loader workers that are forked share the place in the file.
        content = os.pread(self.file.fileno(), size, self.begin + offset)
        if len(content) != size:
            raise StoreError(f"{self.file.name} was cut off while it was in use")
        return np.frombuffer(bytearray(content), self.dtype)

    def whole(self) -> NDArray[Any]:
        """A copy of all of it."""
        return self.read(0, self.size // self.dtype.itemsize)


class Files(Protocol):
    """Files of a store, by name: a folder, or what has all of them in one."""

    def open(self, name: str, dtype: str) -> File | None:
        """An array; None if there is no such file."""
        ...

    def mapped(self, name: str, dtype: str) -> NDArray[np.int64]:
        """An array that is mapped into memory."""
        ...

    def checksum(self, name: str) -> int:
        """CRC-32 of a file, as it was written."""
        ...


class Folder(Files):
    """The files of a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, name: str, dtype: str) -> File | None:
        """An array."""
        if not (self.path / name).is_file():
            return None
        file = (self.path / name).open("rb", buffering=0)
        return File(file, dtype, 0, os.fstat(file.fileno()).st_size)

    def mapped(self, name: str, dtype: str) -> NDArray[np.int64]:
        """An array that is mapped into memory."""
        return np.asarray(np.memmap(self.path / name, dtype, "r"))

    def checksum(self, name: str) -> int:
        """CRC-32 of a file."""
        return json.loads((self.path / CHECKSUMS).read_text("utf-8"))[name]
