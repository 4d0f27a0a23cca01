"""A folder's files in one: a zip without compression, whose members are read where they lie.

So what is fetched as one object of a store needn't be unpacked: half the writing, half the space.
"""

import os
import struct
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from everytoken.data.cache.arrays import File, Files
from everytoken.data.cache.folder import BLOCK_BYTES, CHECKSUMS, store_errors

ALIGNED = 8
"""Bytes: members begin at multiples of so many, as arrays of integers like it."""

HEADER = struct.Struct("<26xHH")
"""Before a member stand these, its name and more; the lengths of both are its last numbers."""

PADDED, PADDING = struct.Struct("<HH"), 0xD935
"""What zip calls a field that is there for this alone."""


class Archive(Files):
    """The files of a folder that `pack` has packed.

    Args:
        path: the zip.

    Raises:
        StoreError: missing, or none that `pack` wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with store_errors():
            self.file = path.open("rb", buffering=0)
            try:
                with zipfile.ZipFile(path) as found:
                    members = found.infolist()
            except zipfile.BadZipFile as error:
                raise ValueError(f"{path} is no archive") from error
            self.members = {one.filename: one for one in members}

    def open(self, name: str, dtype: str) -> File | None:
        """An array."""
        if (member := self.members.get(name)) is None:
            return None
        return File(self.file, dtype, self._begin(member), member.file_size)

    def mapped(self, name: str, dtype: str) -> NDArray[np.int64]:
        """An array that is mapped into memory."""
        member, kind = self.members[name], np.dtype(dtype)
        place, count = self._begin(member), member.file_size // kind.itemsize
        return np.asarray(np.memmap(self.path, kind, "r", place, (count,)))

    def checksum(self, name: str) -> int:
        """CRC-32 of a file."""
        return self.members[name].CRC

    def _begin(self, member: zipfile.ZipInfo) -> int:
        header = os.pread(self.file.fileno(), HEADER.size, member.header_offset)
        return member.header_offset + HEADER.size + sum(HEADER.unpack(header))


def pack(folder: Path, path: Path) -> None:
    """Write the files of a folder into one, but for their checksums: a zip has its own.

    Raises:
        OSError: it can't be written.
    """
    with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as packed:
        for part in sorted(folder.iterdir()):
            if part.name == CHECKSUMS:
                continue
            member = zipfile.ZipInfo(part.name)  # without times: equal folders, equal bytes
            member.file_size = part.stat().st_size
            begin = file.tell() + HEADER.size + len(part.name.encode()) + PADDED.size
            padding = -begin % ALIGNED
            member.extra = PADDED.pack(PADDING, padding) + bytes(padding)
            with part.open("rb") as read, packed.open(member, "w") as write:
                while block := read.read(BLOCK_BYTES):
                    write.write(block)
