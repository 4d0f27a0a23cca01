"""Items in shards: each is fetched when it is needed, see `corpora/prepared.py`."""

import os
import queue
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everytoken.corpora.prepared import Prepared
from everytoken.data.cache.archive import Archive
from everytoken.data.cache.folder import StoreError, store_errors
from everytoken.data.cache.store import ItemStore
from everytoken.data.item import Reference
from everytoken.errors import RunError

THREADS = 8
"""How many shards are fetched at a time."""

MOST_OPEN = 256
"""Shards that a process has open at a time."""

USED_SECONDS = 30.0
"""How often a shard is marked as used, of which others of this machine take notice."""


class Shard(ItemStore):
    """The items of one shard.

    Raises:
        StoreError: missing, or none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.marked = time.monotonic()
        self._read(Archive(path))

    def _ids(self, index: int) -> dict[str, Any]:
        """As they were before they were made small."""
        return {n: ids.astype(self.notes["dtype"]) for n, ids in super()._ids(index).items()}


class ShardStore(ItemStore):
    """Items of a split that was prepared.

    Args:
        source: what was.
        split: which.
        limit: the first so many only, of a mix the first so many of each part; None for all.

    Raises:
        UserError, RunError: as `Shelf.get` does.
    """

    def __init__(self, source: Prepared, split: str, limit: int | None = None) -> None:
        self.source = source
        self.split = split
        self.limit = limit
        self.of = source.splits[split]
        self._shards: dict[int, Shard] = {}
        self._fetcher = Fetcher(self)
        with store_errors():
            self._read(Archive(source.shelf.get(self.of.index)))
        self._places = None if limit is None else self._first(limit)
        if self._places is not None:
            self.lengths = np.array(self.lengths[self._places])

    def _open(self, meta: dict[str, Any]) -> None:
        """What items are made of is in the shards."""

    def _first(self, limit: int) -> NDArray[np.int64] | None:
        """Places of those that a limit leaves; None if it leaves all."""
        parts = self.notes["parts"] or [len(self.lengths)]
        if max(parts) <= limit:
            return None
        ends = np.cumsum(parts).tolist()
        begins = (end - size for end, size in zip(ends, parts, strict=True))
        few = (range(b, b + min(n, limit)) for b, n in zip(begins, parts, strict=True))
        left = np.concatenate([np.array(places, np.int64) for places in few])
        self.notes = self._limited(self.notes, [min(n, limit) for n in parts], left)
        return left

    def _limited(
        self, notes: dict[str, Any], parts: list[int], left: NDArray[np.int64]
    ) -> dict[str, Any]:
        """Counts of those that are left, as far as they are known without reading them."""
        references = [*super().references()]
        self._few = [references[place] for place in left.tolist()] if references else []
        records = self._few[-1].record + 1 if references else len(left)
        gaps = [gap for number, gap in enumerate(notes["gaps"]) if gap - number <= records]
        few = {"records": records, "gaps": gaps, "parts": parts if notes["parts"] else []}
        return {**notes, **few, "checksum": f"{notes['checksum']} {self.limit}"}

    @property
    def lengths_checksum(self) -> int:
        """CRC-32 of `lengths`."""
        return super().lengths_checksum if self._places is None else zlib.crc32(self.lengths.data)

    def references(self) -> Iterator[Reference]:
        """Of each item, without their texts; none of items without."""
        yield from super().references() if self._places is None else self._few

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        place = range(len(self))[index]
        if self._places is not None:
            place = int(self._places[place])
        number, inside = divmod(place, self.of.shard_examples)
        return self._shard(number)[inside]

    def shards_of(self, indices: Iterable[int]) -> list[int]:
        """Numbers of the shards that have some items."""
        places = np.fromiter(indices, np.int64)
        if self._places is not None:
            places = self._places[places]
        return np.unique(places // self.of.shard_examples).tolist()

    def expect(self, shards: Iterable[int]) -> None:
        """Begin to fetch shards that are going to be needed."""
        self._fetcher.expect(shards)

    def _shard(self, number: int) -> Shard:
        shard = self._shards.get(number)
        if shard is None:
            shard = self._opened(number)
        elif time.monotonic() - shard.marked > USED_SECONDS:
            self.source.shelf.has(self.of.shards[number])
            shard.marked = time.monotonic()
        return shard

    def _opened(self, number: int) -> Shard:
        # What others have removed is closed, or the disk would keep it.
        kept = {n: shard for n, shard in self._shards.items() if shard.path.exists()}
        self._shards = kept if len(kept) < MOST_OPEN else {}
        while True:
            path = self._fetcher.get(number)
            try:
                shard = self._shards[number] = Shard(path)
                return shard
            except StoreError as error:
                if path.exists():
                    raise RunError(f"can't read {path} ({error}): delete it") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.split, self.limit)


class Fetcher:
    """Fetches shards of a store, in threads of this process.

    Args:
        store: whose.
    """

    def __init__(self, store: ShardStore) -> None:
        self.store = store
        self._pid = 0

    def _begin(self) -> None:
        """Threads of its own in each process: those of another don't go along into a fork."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._coming: dict[int, Future[Path]] = {}
        for _ in range(THREADS):
            Thread(target=self._work, args=(self._waiting, self._coming), daemon=True).start()

    def expect(self, shards: Iterable[int]) -> None:
        """Fetch those that aren't here, in their order."""
        shelf, files = self.store.source.shelf, self.store.of.shards
        if not shelf.is_remote:
            return
        for number in shards:
            if not shelf.has(files[number]):
                self._begin()
                if number not in self._coming:
                    self._coming[number] = Future()
                    self._waiting.put(number)

    def get(self, number: int) -> Path:
        """Where a shard is, once it is here; raises as `Shelf.get` does."""
        if self._pid == os.getpid() and (coming := self._coming.get(number)):
            return coming.result()
        return self.store.source.shelf.get(self.store.of.shards[number])

    def _work(self, waiting: "queue.SimpleQueue[int]", coming: dict[int, "Future[Path]"]) -> None:
        while True:
            number = waiting.get()
            future = coming[number]
            try:
                path = self.store.source.shelf.get(self.store.of.shards[number])
            except BaseException as error:  # for who reads it
                future.set_exception(error)
            else:
                future.set_result(path)
            del coming[number]
