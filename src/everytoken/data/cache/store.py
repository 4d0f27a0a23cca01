"""Items on disk: flat arrays in a folder, read where they lie.

The parts of an item are its fields that aren't None: `ids` alone, `ids` and `source_ids`, say.
A folder holds:

    tokens.bin      (tokens,) integers, mostly int32: all parts, one after the other
    borders.bin     (parts + 1,) int64: part p is tokens[borders[p] : borders[p + 1]]
    lengths.bin     (items,) int64: real tokens of each item's example
    references.bin  (items, 6) int64: numbers of each item's reference, then where its text begins
                    in texts.bin and ends; -1 if it has none. Not there for items without
    texts.bin       UTF-8: texts of the references, one after the other
    meta.json       the fields, the tokens' dtype, and notes
    checksums.json  of the other files, see `folder`
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from everytoken.data.cache.arrays import File, Files, Folder
from everytoken.data.cache.checked import check_once
from everytoken.data.cache.folder import store_errors, writing
from everytoken.data.cache.packed import ALIKE, Packed
from everytoken.data.item import Item, Reference

COLUMNS = len(Reference._fields) + 1
"""Of references.bin."""

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
            check_once(folder)
        self._read(Folder(folder))

    def _read(self, files: Files) -> None:
        with store_errors():
            self.files = files
            meta = json.loads(self._file("meta.json", "u1").whole().tobytes())
            self.fields: list[str] = meta["fields"]
            self.notes: dict[str, Any] = meta["notes"]
            """What `write_items` noted about the items."""
            self._open(meta)
            self.lengths: NDArray[np.int64] = files.mapped("lengths.bin", "<i8")
            """(items,) int64: real tokens of each item's example."""
            self._references = files.open("references.bin", "<i8")
            if self._references is not None:
                self._texts = self._file("texts.bin", "u1")

    def _open(self, meta: dict[str, Any]) -> None:
        self._tokens = self._file("tokens.bin", meta["dtype"])
        self._borders = self._file("borders.bin", "<i8")

    def _file(self, name: str, dtype: str) -> File:
        if (found := self.files.open(name, dtype)) is None:
            raise ValueError(f"{name} is missing")
        return found

    def _ids(self, index: int) -> dict[str, Any]:
        """The parts of an item."""
        parts = len(self.fields)
        first = index * parts
        borders = self._borders.read(first, first + parts + 1).tolist()
        ids = self._tokens.read(borders[0], borders[-1])
        ends = pairwise(border - borders[0] for border in borders)
        return {field: ids[a:b] for field, (a, b) in zip(self.fields, ends, strict=True)}

    @cached_property
    def longest(self) -> int:
        """Real tokens of the longest example."""
        return int(self.lengths.max())

    @property
    def lengths_checksum(self) -> int:
        """CRC-32 of `lengths`, as it was written: to compute it takes a pass over them."""
        with store_errors():
            return self.files.checksum("lengths.bin")

    def packed(self, begin: int, end: int) -> Packed:
        """Items in a row, read at once."""
        parts = len(self.fields)
        borders = self._borders.read(begin * parts, end * parts + 1)
        return Packed(
            tuple(self.fields),
            self._tokens.read(int(borders[0]), int(borders[-1])),
            np.diff(borders),
            self.lengths[begin:end],
            [*filter(None, map(self._reference, range(begin, end)))],
        )

    def references(self) -> Iterator[Reference]:
        """Of each item, without their texts; none of items without."""
        if self._references is not None:
            numbers = self._references.read(0, len(self) * COLUMNS).reshape(-1, COLUMNS)
            yield from (Reference(*row[:-2]) for row in numbers.tolist())

    def _reference(self, index: int) -> Reference | None:
        if self._references is None:
            return None
        place = index * COLUMNS
        *numbers, begin, end = self._references.read(place, place + COLUMNS).tolist()
        text = None if begin < 0 else self._texts.read(begin, end).tobytes().decode()
        return Reference(*numbers, text=text)

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        place = range(len(self))[index]
        return Item(**self._ids(place), reference=self._reference(place))

    def __reduce__(self) -> tuple[type["ItemStore"], tuple[Path, bool]]:
        return type(self), (self.folder, True)


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
        super().__init__(item._replace(place=None) for item, _ in pairs)
        self.lengths = np.array([length for _, length in pairs], dtype=np.int64)
        """(items,) int64: real tokens of each item's example."""
        self.longest = int(self.lengths.max())
        """Real tokens of the longest example."""
        self.notes = notes()
        """What was noted about the items."""

    def references(self) -> Iterator[Reference]:
        """Of each item; none of items without."""
        yield from (item.reference for item in self if item.reference is not None)


def write_items(
    folder: Path, items: Iterable[tuple[Item, int]], notes: Callable[[], dict[str, Any]] = dict
) -> None:
    """Write items with their real tokens, so that `ItemStore` finds all of them or nothing.

    Memory doesn't grow with their number. What `items` raises is handed on.

    Args:
        folder: is made. A whole store that is there already is kept, a damaged one replaced.
        items: items and the real tokens of their examples.
        notes: called after the last item; what it returns is kept with them, as JSON.

    Raises:
        StoreError: the folder can't be written; or items aren't plain arrays, or not alike.
    """

    def packed() -> Iterator[Packed]:
        for chunk in chunks(items, CHUNK_ITEMS):
            with store_errors():
                one = Packed.of(chunk)
            chunk.clear()  # or it would be in memory twice
            yield one

    write_packed(folder, packed(), notes)


def write_packed(
    folder: Path, packed: Iterable[Packed], notes: Callable[[], dict[str, Any]] = dict
) -> None:
    """The same of items that are packed already.

    Raises:
        StoreError: the folder can't be written, or items aren't alike.
    """
    with writing(folder) as new:
        kinds: set[tuple[tuple[str, ...], str]] = set()
        borders, written = np.zeros(1, "<i8"), 0
        with store_errors():
            append(new / "borders.bin", borders)
        for some in packed:
            with store_errors():
                kinds.add(some.kind)
                if len(kinds) > 1:
                    raise ValueError(ALIKE)
                borders = borders[-1] + np.cumsum(some.sizes, dtype="<i8")
                append(new / "tokens.bin", some.tokens)
                append(new / "borders.bin", borders)
                append(new / "lengths.bin", some.real)
                if some.references:
                    written = append_references(new, some.references, written)
        with store_errors():
            if not kinds:
                raise ValueError("there are no items")
            ((fields, dtype),) = kinds
            meta = {"fields": fields, "dtype": dtype, "notes": notes()}
            (new / "meta.json").write_text(json.dumps(meta) + "\n", encoding="utf-8")


def append_lengths(folder: Path, chunk: Sequence[tuple[Item, int]], begin: int) -> int:
    """Write what is beside the ids of some items; texts begin there in texts.bin; where they end.

    Raises:
        ValueError: some have a reference and some have none.
    """
    append(folder / "lengths.bin", np.array([length for _, length in chunk], "<i8"))
    references = [item.reference for item, _ in chunk if item.reference]
    if references and len(references) < len(chunk):
        raise ValueError("some items have a reference and some have none")
    return append_references(folder, references, begin) if references else begin


def append_references(folder: Path, references: Sequence[Reference], begin: int) -> int:
    """Write references, whose texts begin there in texts.bin; where they end."""
    texts = [None if r.text is None else r.text.encode() for r in references]
    rows = []
    for (*numbers, _), text in zip(references, texts, strict=True):
        end = begin + len(text or b"")
        rows.append([*numbers, *((-1, -1) if text is None else (begin, end))])
        begin = end
    append(folder / "references.bin", np.array(rows, "<i8"))
    append(folder / "texts.bin", np.frombuffer(b"".join(text or b"" for text in texts), "u1"))
    return begin


def append(path: Path, array: NDArray[Any]) -> None:
    """Write an array at the end of a file."""
    with path.open("ab") as file:
        file.write(np.ascontiguousarray(array).data)


def chunks(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` values; the last may be shorter."""
    rest = iter(values)
    while chunk := list(islice(rest, size)):
        yield chunk
