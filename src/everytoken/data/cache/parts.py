"""What was made of a large corpus so far: who is killed while tokenizing goes on from there.

A part is what was made of one chunk of records, a file of NumPy's; its name is the chunk's number.
All lie in a folder beside the one that is being made, and go when that is whole.
"""

import json
import shutil
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from everytoken.data.cache.packed import Packed
from everytoken.data.counts import Counts
from everytoken.data.item import Reference
from everytoken.data.making import Made
from everytoken.runtime.files import replacing


class Parts:
    """Parts on disk.

    Args:
        folder: where they are; is made if it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_usable = True
        self.found = 0
        """How many were there already."""

    def get(self, number: int) -> tuple[Packed | None, Counts, int | None] | None:
        """Items, counts and first refused record of a chunk; None if it isn't there, or broken."""
        try:
            with np.load(self._file(number), allow_pickle=False) as arrays:
                meta = json.loads(str(arrays["meta"]))
                rows = zip(arrays["references"].tolist(), meta["texts"], strict=True)
                references = [Reference(*row, text=text) for row, text in rows]
                packed = None
                if meta["fields"]:
                    tokens, sizes, real = (arrays[name] for name in ARRAYS)
                    packed = Packed(tuple(meta["fields"]), tokens, sizes, real, references)
                found = packed, Counts(**meta["counts"]), meta["refused"]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None
        self.found += 1
        return found

    def put(self, number: int, made: Sequence[Made]) -> None:
        """Keep what was made of a chunk, if that can be."""
        [one] = made
        if not self.is_usable or one.counter is None or (one.items and type(one.items) is list):
            return
        packed = one.items if isinstance(one.items, Packed) else None
        references = packed.references if packed else []
        meta = {
            "fields": packed.fields if packed else [],
            "texts": [reference.text for reference in references],
            "counts": asdict(one.counter.counts),
            "refused": one.refused,
        }
        arrays: dict[str, Any] = {name: getattr(packed, name) for name in ARRAYS} if packed else {}
        rows = np.array([reference[:-1] for reference in references], "<i8")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._file(number)) as new, new.open("wb") as file:
                np.savez(file, meta=np.array(json.dumps(meta)), references=rows, **arrays)
        except OSError:  # a full disk: what goes on needs no parts
            self.is_usable = False
            self.remove()

    def remove(self) -> None:
        """They are needed no more."""
        with suppress(OSError):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:08}.npz"


ARRAYS = ("tokens", "sizes", "real")
