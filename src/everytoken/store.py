"""Items on disk: flat arrays in a folder, read where they lie.

An item is one part (`ids`) or two (`ids`, `source_ids`). A folder holds:

    tokens.bin    (tokens,) integers, mostly int32: all parts, one after the other
    borders.bin   (parts + 1,) int64: part p is tokens[borders[p] : borders[p + 1]]
    lengths.bin   (items,) int64: real tokens of each item's example
    meta.json     how many there are of each, and the tokens' dtype
"""

import json
import mmap
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
from numpy.typing import NDArray

from everytoken.collate import Ids
from everytoken.objective import Item

CHUNK_ITEMS = 10_000
"""Items that are in memory at a time while they are written."""


class StoreError(Exception):
    """There is no store, or it is broken, or it can't be written."""


class ItemStore(Sequence[Item]):
    """Items that stay on disk: each is read when it is asked for, and is then the reader's own.

    Only `lengths`, all of which a sampler looks at, are mapped into memory. If the items were too,
    each that is read would bring its surroundings of 64 KiB into this process's memory, and to give
    them back costs more than to read. In another process it opens the same files: it is pickled as
    a path.

    Args:
        folder: what `write_items` wrote.

    Raises:
        StoreError: missing, incomplete or of the wrong size.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with store_errors():
            meta = json.loads((folder / "meta.json").read_text("utf-8"))
            count, self.parts = int(meta["items"]), int(meta["parts"])
            self.longest = int(meta["longest"])
            """Real tokens of the longest example."""
            self._tokens = _File(folder / "tokens.bin", meta["dtype"], meta["tokens"])
            self._borders = _File(folder / "borders.bin", "<i8", count * self.parts + 1)
            self.lengths: NDArray[np.int64] = _File(folder / "lengths.bin", "<i8", count).mapped()
            """(items,) int64: real tokens of each item's example."""

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        first = range(len(self))[index] * self.parts
        borders = self._borders.read(first, first + self.parts + 1).tolist()
        ids = self._tokens.read(borders[0], borders[-1])
        source = borders[1] - borders[0]
        return Item(ids) if self.parts == 1 else Item(ids[:source], ids[source:])

    def __reduce__(self) -> tuple[type["ItemStore"], tuple[Path]]:
        return ItemStore, (self.folder,)


class _File:
    """An array (count,) in a file."""

    def __init__(self, path: Path, dtype: str, count: int) -> None:
        self.dtype = np.dtype(dtype)
        self.file = path.open("rb", buffering=0)
        size, found = count * self.dtype.itemsize, os.fstat(self.file.fileno()).st_size
        if found != size:
            raise ValueError(f"{path.name} has {found} bytes instead of {size}")

    def read(self, begin: int, end: int) -> NDArray[Any]:
        """A copy of a part."""
        offset, size = begin * self.dtype.itemsize, (end - begin) * self.dtype.itemsize
        if hasattr(os, "pread"):  # loader workers that are forked share the place in the file
            content = os.pread(self.file.fileno(), size, offset)
        else:
            self.file.seek(offset)
            content = self.file.read(size)
        if len(content) != size:
            raise StoreError(f"{self.file.name} was cut off while it was in use")
        return np.frombuffer(bytearray(content), self.dtype)

    def mapped(self) -> NDArray[Any]:
        """All of it, not in memory before it is looked at."""
        mapping = mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapping, self.dtype)


class ItemList(list[Item]):
    """Items in memory.

    Args:
        items: items and the real tokens of their examples.
    """

    def __init__(self, items: Iterable[tuple[Item, int]]) -> None:
        pairs = list(items)
        super().__init__(item for item, _ in pairs)
        self.lengths = np.array([length for _, length in pairs], dtype=np.int64)
        """(items,) int64: real tokens of each item's example."""
        self.longest = int(self.lengths.max())
        """Real tokens of the longest example."""


def write_items(folder: Path, items: Iterable[tuple[Item, int]]) -> None:
    """Write items with their real tokens, so that `ItemStore` finds all of them or nothing.

    Memory doesn't grow with their number. What `items` raises is handed on.

    Args:
        folder: is made. A store that is there already is kept, whatever else is there replaced.
        items: items and the real tokens of their examples.

    Raises:
        StoreError: the folder can't be written; or items aren't plain arrays, or not alike.
    """
    new = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        with store_errors():
            new.mkdir(parents=True)
        with ExitStack() as files:
            with store_errors():
                writer = _Writer(new, files)
            for chunk in chunks(items, CHUNK_ITEMS):
                with store_errors():
                    writer.append(chunk)
            with store_errors():
                writer.finish()
        with store_errors():
            _move(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


class _Writer:
    def __init__(self, folder: Path, files: ExitStack) -> None:
        def create(name: str) -> BinaryIO:
            return files.enter_context((folder / name).open("xb"))

        self.folder = folder
        self.tokens, self.borders, self.lengths = map(
            create, ("tokens.bin", "borders.bin", "lengths.bin")
        )
        self.borders.write(np.zeros(1, "<i8").tobytes())
        self.kind: tuple[int, str] | None = None
        """Parts of an item, and their dtype."""
        self.items = self.token_count = self.longest = 0

    def append(self, chunk: list[tuple[Item, int]]) -> None:
        rows = [_parts(item) for item, _ in chunk]
        parts = [part for row in rows for part in row]
        kinds = {(len(row), part.dtype.str) for row in rows for part in row}
        self.kind = self.kind or next(iter(kinds))
        if kinds != {self.kind}:
            raise ValueError("items differ in the dtype of their ids, or in having source_ids")
        ids = np.concatenate(parts)
        lengths = np.array([length for _, length in chunk], "<i8")
        ends = self.token_count + np.cumsum([len(part) for part in parts], dtype="<i8")
        for file, array in ((self.tokens, ids), (self.borders, ends), (self.lengths, lengths)):
            file.write(array.tobytes())
        self.items += len(chunk)
        self.token_count = int(ends[-1])
        self.longest = max(self.longest, int(lengths.max()))

    def finish(self) -> None:
        for file in (self.tokens, self.borders, self.lengths):
            file.flush()
            os.fsync(file.fileno())  # or after a power cut it may be there without its content
        if self.kind is None:
            raise ValueError("there are no items")
        parts, dtype = self.kind
        meta = {"items": self.items, "parts": parts, "tokens": self.token_count}
        meta |= {"dtype": dtype, "longest": self.longest}
        (self.folder / "meta.json").write_text(json.dumps(meta) + "\n", encoding="utf-8")


def _parts(item: Item) -> list[Ids]:
    parts = [part for part in item if part is not None] if type(item) is Item else []
    plain = [isinstance(part, np.ndarray) and part.ndim == 1 for part in parts]
    if not plain or not all(plain) or any(part.dtype.kind not in "iu" for part in parts):
        raise ValueError("items must be everytoken's Item, of one-dimensional arrays of integers")
    return parts


def _move(new: Path, folder: Path) -> None:
    """Put a complete store in its place, at once."""
    try:
        os.replace(new, folder)
    except OSError:
        if is_store(folder):
            return  # another process was faster
        broken = new.with_suffix(".broken")
        os.replace(folder, broken)
        os.replace(new, folder)
        shutil.rmtree(broken, ignore_errors=True)


def is_store(folder: Path) -> bool:
    """True if there is a complete store."""
    try:
        ItemStore(folder)
    except StoreError:
        return False
    return True


def chunks(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` values; the last may be shorter."""
    rest = iter(values)
    while chunk := list(islice(rest, size)):
        yield chunk


@contextmanager
def store_errors() -> Iterator[None]:
    """What goes wrong with files or their content, as StoreError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(" ".join(str(error).split()) or type(error).__name__) from error
