"""Items on disk: flat arrays in a folder, read where they lie.

The parts of an item are its fields that aren't None: `ids` alone, `ids` and `source_ids`, say.
A folder holds:

    tokens.bin      (tokens,) integers, mostly int32: all parts, one after the other
    borders.bin     (parts + 1,) int64: part p is tokens[borders[p] : borders[p + 1]]
    lengths.bin     (items,) int64: real tokens of each item's example
    meta.json       how many there are of each, the fields, the tokens' dtype, and notes
    checksums.json  of the other files, see `sealed`
"""

import json
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
from numpy.typing import NDArray

from everytoken.data.cache.folder import StoreError, check, store_errors, writing
from everytoken.data.collate import Ids
from everytoken.data.objective import Item

CHUNK_ITEMS = 10_000
"""Items that are in memory at a time while they are written."""


class ItemStore(Sequence[Item]):
    """Items that stay on disk: each is read when it is asked for, and is then the reader's own.

    Only `lengths`, all of which a sampler looks at, are mapped into memory. If the items were too,
    each that is read would bring its surroundings of 64 KiB into this process's memory, and to give
    them back costs more than to read. In another process it opens the same files: it is pickled as
    a path.

    Args:
        folder: what `write_items` wrote.
        is_checked: True if somebody has compared its checksums already, which takes a pass over
            all files.

    Raises:
        StoreError: missing, or not as it was written.
    """

    def __init__(self, folder: Path, is_checked: bool = False) -> None:
        self.folder = folder
        if not is_checked:
            check(folder)
        with store_errors():
            meta = json.loads((folder / "meta.json").read_text("utf-8"))
            count, self.fields = int(meta["items"]), list(meta["fields"])
            self.notes: dict[str, Any] = meta["notes"]
            """What `write_items` was told about the items."""
            self.longest = int(meta["longest"])
            """Real tokens of the longest example."""
            self._tokens = _File(folder / "tokens.bin", meta["dtype"], meta["tokens"])
            self._borders = _File(folder / "borders.bin", "<i8", count * len(self.fields) + 1)
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
        parts = len(self.fields)
        first = range(len(self))[index] * parts
        borders = self._borders.read(first, first + parts + 1).tolist()
        ids = self._tokens.read(borders[0], borders[-1])
        ends = pairwise(border - borders[0] for border in borders)
        return Item(**{field: ids[a:b] for field, (a, b) in zip(self.fields, ends, strict=True)})

    def __reduce__(self) -> tuple[type["ItemStore"], tuple[Path, bool]]:
        return ItemStore, (self.folder, True)


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
        notes: called after the last item, as `write_items` does.
    """

    def __init__(
        self, items: Iterable[tuple[Item, int]], notes: Callable[[], dict[str, Any]] = dict
    ) -> None:
        pairs = list(items)
        super().__init__(item for item, _ in pairs)
        self.lengths = np.array([length for _, length in pairs], dtype=np.int64)
        """(items,) int64: real tokens of each item's example."""
        self.longest = int(self.lengths.max())
        """Real tokens of the longest example."""
        self.notes = notes()
        """What was told about the items."""


def write_items(
    folder: Path, items: Iterable[tuple[Item, int]], notes: Callable[[], dict[str, Any]] = dict
) -> None:
    """Write items with their real tokens, so that `ItemStore` finds all of them or nothing.

    Memory doesn't grow with their number. What `items` raises is handed on.

    Args:
        folder: is made. A store that is there already is kept, whatever else is there replaced.
        items: items and the real tokens of their examples.
        notes: called after the last item; what it returns is kept with them, as JSON.

    Raises:
        StoreError: the folder can't be written; or items aren't plain arrays, or not alike.
    """
    with writing(folder) as new, ExitStack() as files:
        with store_errors():
            writer = _Writer(new, files)
        for chunk in chunks(items, CHUNK_ITEMS):
            with store_errors():
                writer.append(chunk)
        with store_errors():
            writer.finish(notes())


class _Writer:
    def __init__(self, folder: Path, files: ExitStack) -> None:
        def create(name: str) -> BinaryIO:
            file = (folder / name).open("xb")
            files.callback(_close, file)
            return file

        self.folder = folder
        self.tokens, self.borders, self.lengths = map(
            create, ("tokens.bin", "borders.bin", "lengths.bin")
        )
        self.borders.write(np.zeros(1, "<i8").tobytes())
        self.kind: tuple[tuple[str, ...], str] | None = None
        """Fields of an item, and their dtype."""
        self.items = self.token_count = self.longest = 0

    def append(self, chunk: list[tuple[Item, int]]) -> None:
        rows = [_parts(item) for item, _ in chunk]
        parts = [part for row in rows for part in row.values()]
        kinds = {(tuple(row), part.dtype.str) for row in rows for part in row.values()}
        self.kind = self.kind or next(iter(kinds))
        if kinds != {self.kind}:
            raise ValueError("items differ in the dtype of their ids, or in their fields")
        ids = np.concatenate(parts)
        lengths = np.array([length for _, length in chunk], "<i8")
        ends = self.token_count + np.cumsum([len(part) for part in parts], dtype="<i8")
        for file, array in ((self.tokens, ids), (self.borders, ends), (self.lengths, lengths)):
            file.write(array.tobytes())
        self.items += len(chunk)
        self.token_count = int(ends[-1])
        self.longest = max(self.longest, int(lengths.max()))

    def finish(self, notes: dict[str, Any]) -> None:
        for file in (self.tokens, self.borders, self.lengths):
            file.flush()
            os.fsync(file.fileno())  # or after a power cut it may be there without its content
        if self.kind is None:
            raise ValueError("there are no items")
        fields, dtype = self.kind
        meta = {"items": self.items, "fields": fields, "tokens": self.token_count}
        meta |= {"dtype": dtype, "longest": self.longest, "notes": notes}
        (self.folder / "meta.json").write_text(json.dumps(meta) + "\n", encoding="utf-8")


def _close(file: BinaryIO) -> None:
    with suppress(OSError):  # what can't be written has been told by `finish`
        file.close()


def _parts(item: Item) -> dict[str, Ids]:
    named = zip(Item._fields, item, strict=True) if type(item) is Item else ()
    parts = {name: part for name, part in named if part is not None}
    plain = [isinstance(part, np.ndarray) and part.ndim == 1 for part in parts.values()]
    if not plain or not all(plain) or any(part.dtype.kind not in "iu" for part in parts.values()):
        raise ValueError("items must be everytoken's Item, of one-dimensional arrays of integers")
    return parts


def chunks(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` values; the last may be shorter."""
    rest = iter(values)
    while chunk := list(islice(rest, size)):
        yield chunk
