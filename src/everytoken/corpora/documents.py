"""Documents whose tokens are ids already, in files: read where they lie, a part at a time."""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from everytoken.errors import UserError

Ids = NDArray[np.integer]

BLOCK = 1 << 22
"""Most ids that are in memory at a time while a document is gone through."""


class TokenFile:
    """A file of ids; whatever else it holds, ids begin at whole multiples of their size.

    Args:
        path: the file.
        dtype: integers.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path = path
        self.dtype = dtype
        self.file = path.open("rb", buffering=0)

    def read(self, begin: int, end: int) -> Ids:
        """A copy of a part, in ids from the begin of the file.

        Raises:
            UserError: it isn't there, or no longer.
        """
        # As any mapped page of a file that is cut off meanwhile would end the process.
        size = self.dtype.itemsize
        content = os.pread(self.file.fileno(), (end - begin) * size, begin * size)
        if len(content) != (end - begin) * size:
            raise UserError(f"{self.path} ends in the middle of ids, or was cut off while in use")
        return np.frombuffer(content, self.dtype)


class Document(Sequence[int]):
    """Some ids of a file, one text's.

    Args:
        file: where they are.
        begin: the first, in ids from the begin of the file.
        end: the one after the last.
        place: what it is a part of, in words: a file, or its row.
        origin: where that begins.
    """

    def __init__(self, file: TokenFile, begin: int, end: int, place: str, origin: int) -> None:
        self.file = file
        self.begin = begin
        self.end = end
        self.place = place
        self.origin = origin

    def part(self, begin: int, end: int) -> "Document":
        """From one of its ids up to another."""
        begin, end = self.begin + begin, self.begin + end
        return Document(self.file, begin, end, self.place, self.origin)

    def at(self, index: int) -> str:
        """Where one of its ids is, in words."""
        return f"{self.place}, token {self.begin - self.origin + index}"

    def __len__(self) -> int:
        return self.end - self.begin

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Ids: ...
    def __getitem__(self, index: int | slice) -> int | Ids:
        if isinstance(index, slice):
            begin, end, _ = index.indices(len(self))
            return self.file.read(self.begin + begin, self.begin + max(begin, end))
        place = self.begin + range(len(self))[index]
        return int(self.file.read(place, place + 1)[0])

    def blocks(self) -> Iterator[tuple[int, Ids]]:
        """All ids, part by part, each with where it begins."""
        for begin in range(0, len(self), BLOCK):
            yield begin, self[begin : begin + BLOCK]

    def places_of(self, id_: int) -> Iterator[int]:
        """Where an id stands."""
        for begin, block in self.blocks():
            yield from (begin + np.flatnonzero(block == id_)).tolist()

    def __iter__(self) -> Iterator[int]:
        for _, block in self.blocks():
            yield from block.tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Ids:
        return self[:].astype(np.int64 if dtype is None else dtype)

    def count(self, value: int) -> int:
        """How often an id stands in it."""
        return sum(int((block == value).sum()) for _, block in self.blocks())

    def isspace(self) -> bool:
        """Whether nothing is in it, as is asked of texts."""
        return not len(self)

    def encode(self) -> bytes:
        """What stands for it where texts are compared: 16 bytes, equal for equal ids."""
        return self._digest

    @cached_property
    def _digest(self) -> bytes:
        hasher = blake2b(digest_size=16)
        for _, block in self.blocks():
            hasher.update(block.astype("<i8").data)
        return hasher.digest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Document) and self._digest == other._digest
