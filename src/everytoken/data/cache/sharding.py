"""Tokenizer and items as the files of what is prepared, see `corpora/prepared.py`."""

import json
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from everytoken.data.cache.archive import pack
from everytoken.data.cache.folder import BLOCK_BYTES
from everytoken.data.cache.packed import Packed
from everytoken.data.cache.store import (
    COLUMNS,
    ItemList,
    ItemStore,
    append,
    append_references,
    chunks,
    write_packed,
)
from everytoken.tokenizer.tokenizer import Tokenizer

SAMPLED = 1_000
"""Examples of which it is seen how large they are."""

ONCE = 10_000
"""Examples that are read at a time."""

KINDS = ("<u1", "<u2", "<i2", "<u4", "<i4", "<i8")
"""What ids are kept as: the first that holds all of a shard."""

Items = ItemStore | ItemList


class Written(NamedTuple):
    """A file to be sent."""

    name: str
    """Where it belongs."""
    path: Path
    """Where it is."""
    crc: int
    """CRC-32."""

    @classmethod
    def of(cls, name: str, folder: Path) -> "Written":
        """The files of a folder in one beside it; the folder is gone then."""
        path, crc = folder.with_suffix(".zip"), 0
        pack(folder, path)
        shutil.rmtree(folder)
        with path.open("rb") as written:
            while block := written.read(BLOCK_BYTES):
                crc = zlib.crc32(block, crc)
        return cls(name, path, crc)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.path.stat().st_size


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> Written:
    """A tokenizer, written into a folder that is there; so do the next two."""
    new = folder / "tokenizer"
    new.mkdir()
    tokenizer.save(new / "tokenizer.json")
    return Written.of("tokenizer.zip", new)


def write_index(items: Items, split: str, folder: Path) -> Written:
    """What is known of all items of a split without their ids."""
    new = folder / f"index-{split}"
    new.mkdir()
    (new / "meta.json").write_text(json.dumps({"fields": [], "notes": items.notes}), "utf-8")
    for begin in range(0, len(items), ONCE):
        append(new / "lengths.bin", np.asarray(items.lengths[begin : begin + ONCE], "<i8"))
    for some in chunks((one._replace(text=None) for one in items.references()), ONCE):
        append_references(new, some, 0)
    return Written.of(f"{new.name}.zip", new)


def write_shards(items: Items, split: str, each: int, folder: Path) -> Iterator[Written]:
    """Shards of so many items each, one after the other.

    Raises:
        StoreError: the folder can't be written, or items aren't plain arrays.
    """
    for number, begin in enumerate(range(0, len(items), each)):
        end = min(begin + each, len(items))
        parts = [_packed(items, b, min(b + ONCE, end)) for b in range(begin, end, ONCE)]
        notes = {"dtype": parts[0].tokens.dtype.str}
        name = f"{number:05}"
        write_packed(folder / name, _small(parts), lambda kept=notes: kept)
        yield Written.of(f"{split}/{name}.zip", folder / name)


def examples_of(megabytes: float, items: Items) -> int:
    """How many examples of this size on average a shard of so many megabytes (10⁶ bytes) has."""
    places = np.unique(np.linspace(0, len(items) - 1, SAMPLED, dtype=np.int64)).tolist()
    some = [_packed(items, place, place + 1) for place in places]
    [small] = {part.tokens.dtype.itemsize for part in _small(some)}
    size = sum(part.tokens.size * small + part.sizes.nbytes + part.real.nbytes for part in some)
    references = [reference for part in some for reference in part.references]
    size += sum(8 * COLUMNS + len((one.text or "").encode()) for one in references)
    return max(1, round(megabytes * 1e6 * len(some) / size))


def _packed(items: Items, begin: int, end: int) -> Packed:
    if isinstance(items, ItemStore):
        return items.packed(begin, end)
    return Packed.of([*zip(items[begin:end], items.lengths[begin:end].tolist(), strict=True)])


def _small(parts: list[Packed]) -> list[Packed]:
    """The same with ids in as few bytes as all of them need."""
    ids = [part.tokens for part in parts if part.tokens.size]
    low, high = min([0, *(int(a.min()) for a in ids)]), max([0, *(int(a.max()) for a in ids)])
    fits: Any = (k for k in KINDS if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
    kind = next(fits)
    return [replace(part, tokens=part.tokens.astype(kind)) for part in parts]
