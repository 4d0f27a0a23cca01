"""Items of files of ids: where each lies in them. The ids stay where they are, once.

A folder holds what is beside the ids as in `store`, and

    places.bin      (items, 6) int64: of which file, and the numbers of `Place`
    meta.json       the fields, the files and their dtypes, and notes
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from everytoken.corpora.documents import TokenFile
from everytoken.data.cache.folder import store_errors, writing
from everytoken.data.cache.packed import Packed
from everytoken.data.cache.store import (
    CHUNK_ITEMS,
    ItemStore,
    append,
    append_lengths,
    chunks,
)
from everytoken.data.item import Item, Place
from everytoken.data.marked import read

COLUMNS = len(Place._fields)


class TokenStore(ItemStore):
    """The same of items whose ids are in files that others wrote.

    Raises:
        StoreError: missing, or not as it was written; or a file is there no longer.
    """

    def _open(self, meta: dict[str, Any]) -> None:
        self._places = self._file("places.bin", "<i8")
        self._files = [TokenFile(Path(path), np.dtype(kind)) for path, kind in meta["files"]]

    def packed(self, begin: int, end: int) -> Packed:
        """Items in a row, with the ids that are elsewhere."""
        pairs = zip(self[begin:end], self.lengths[begin:end].tolist(), strict=True)
        return Packed.of([*pairs])

    def _ids(self, index: int) -> dict[str, Any]:
        number, *place = self._places.read(index * COLUMNS, (index + 1) * COLUMNS).tolist()
        parts = read(Place(self._files[number], *place))
        return dict(zip(self.fields, parts, strict=False))


def write_places(
    folder: Path, items: Iterable[tuple[Item, int]], notes: Callable[[], dict[str, Any]] = dict
) -> None:
    """Write where items lie, so that `TokenStore` finds all of them or nothing; see `write_items`.

    Raises:
        StoreError: the folder can't be written, or an item has no place.
    """
    files: dict[TokenFile, int] = {}
    fields, written = ["ids"], 0
    with writing(folder) as new:
        for chunk in chunks(items, CHUNK_ITEMS):
            with store_errors():
                rows = []
                for item, _ in chunk:
                    if item.place is None:
                        raise ValueError("an item is in no file of ids")
                    file, *numbers = item.place
                    rows.append([files.setdefault(file, len(files)), *numbers])
                    if item.context_ids is not None:
                        fields = ["ids", "context_ids"]
                append(new / "places.bin", np.array(rows, "<i8"))
                written = append_lengths(new, chunk, written)
        with store_errors():
            if not files:
                raise ValueError("there are no items")
            named = [(str(file.path.resolve()), file.dtype.str) for file in files]
            meta = {"fields": fields, "files": named, "notes": notes()}
            (new / "meta.json").write_text(json.dumps(meta) + "\n", encoding="utf-8")
