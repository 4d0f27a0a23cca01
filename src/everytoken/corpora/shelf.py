"""Files of an address that are kept on this machine, up to a size.

A file is fetched when it is first asked for, by one of the processes that ask, and is there when
its checksum is right: a part of one never is. If there is no room, those that were asked for
longest ago go. Who has one of these open reads on; the disk has its space when it is closed.
"""

import hashlib
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from everytoken.corpora.remote import RemoteFile, find_remote, is_remote
from everytoken.errors import RunError, UserError
from everytoken.runtime.files import UNFINISHED, replacing
from everytoken.runtime.locks import acquire

GIGABYTE = 1_000_000_000
BLOCK_BYTES = 1 << 20

TRIES = 3
"""How often a file is fetched whose checksum is wrong."""

LOCK = ".lock"

NAP_SECONDS = 0.05
"""Between two looks for room that others take while they fetch."""


class Kept(NamedTuple):
    """A file as it was written."""

    name: str
    """Its place below the address, with slashes."""
    size: int
    """In bytes."""
    crc: int
    """CRC-32."""
    may_go: bool = True
    """False for what is needed as long as anything is."""


class Shelf:
    """The files below one address. A folder of this machine's is read where it is.

    Args:
        path: an address, or a folder.
        folder: where files are kept, those of other addresses too; None for nowhere.
        most_bytes: of all that may go.

    Raises:
        UserError: an address, and no folder.
    """

    def __init__(self, path: str, folder: Path | None, most_bytes: int) -> None:
        self.path = path.rstrip("/")
        self.is_remote = is_remote(path)
        if self.is_remote and folder is None:
            raise UserError(f"what is at {path} is kept on this machine: give data.cache_dir")
        self.root = (folder or Path()).expanduser() / "shards"
        self.most_bytes = most_bytes
        self.fetched = 0
        """Bytes that this object has fetched."""
        self._checked: set[Kept] = set()

    def place(self, file: Kept) -> Path:
        """Where a file is, or will be."""
        if not self.is_remote:
            return Path(self.path).expanduser() / file.name
        name, own = Path(file.name), hashlib.sha256(self.path.encode()).hexdigest()[:16]
        return self.root / own / name.with_name(f"{name.stem}-{file.crc:08x}{name.suffix}")

    def url(self, name: str) -> str:
        """The address of a file."""
        return f"{self.path}/{name}"

    def has(self, file: Kept) -> bool:
        """Whether it is here; if so, it goes later than others."""
        now = time.time_ns()  # the system's own time of a file may be milliseconds behind
        try:
            os.utime(self.place(file), ns=(now, now))
        except FileNotFoundError:
            return False
        except OSError:  # a folder that isn't ours to change
            return self.place(file).is_file()
        return True

    def get(self, file: Kept) -> Path:
        """Where a file is, once it is here.

        Raises:
            UserError: it is not there.
            RunError: its server failed too often, or it isn't what was written.
        """
        place = self.place(file)
        if not self.is_remote:
            self._check(file, place)
            return place
        if self.has(file):
            return place
        with self._alone(place):
            if not self.has(file):
                try:
                    self._fetch(file, place)
                except OSError as error:
                    raise RunError(f"can't write {place} ({error.strerror or error})") from error
        return place

    def _fetch(self, file: Kept, place: Path) -> None:
        with replacing(place, shared=True) as new:
            self._make_room(file, new)
            for _ in range(TRIES):
                if self._copy(file, new):
                    return
            raise RunError(self._damaged(file))

    def _copy(self, file: Kept, new: Path) -> bool:
        """Whether what was fetched is what was written."""
        crc = count = 0
        with self._find(file).open() as source, new.open("r+b") as target:
            while block := source.read(BLOCK_BYTES):
                target.write(block)
                crc, count = zlib.crc32(block, crc), count + len(block)
            target.truncate()
        self.fetched += count
        return (count, crc) == (file.size, file.crc)

    def _find(self, file: Kept) -> RemoteFile:
        try:
            [found] = find_remote(self.url(file.name), lambda name: True)
        except UserError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise RunError(f"{self.url(file.name)} is missing: prepare it again") from error
            raise
        if found.size not in (None, file.size):
            raise RunError(self._damaged(file))
        return found

    def _damaged(self, file: Kept) -> str:
        return f"{self.url(file.name)} is not as it was written: prepare it again"

    def _make_room(self, file: Kept, new: Path) -> None:
        """Reserve the space for a file where it is written, when there is room."""
        while True:
            with self._alone(self.root / "room"):
                room = self.most_bytes - file.size if file.may_go else 0
                if not file.may_go or self._use_at_most(room):
                    with new.open("wb") as reserved:
                        reserved.truncate(file.size)
                    return
            time.sleep(NAP_SECONDS)

    def _use_at_most(self, size: int) -> bool:
        """Whether files that may go have so many bytes, or less, once old ones are gone."""
        found: list[tuple[float, int, Path]] = []
        for path in self.root.glob("*/*/*"):
            with suppress(OSError):
                if path.suffix != LOCK:
                    found.append(((state := path.stat()).st_mtime, state.st_size, path))
        used = sum(bytes_ for _, bytes_, _ in found)
        for _, bytes_, path in sorted(found):
            if used <= size:
                break
            if path.suffix != UNFINISHED or _is_left(path):
                path.unlink(missing_ok=True)
                used -= bytes_
        return used <= size

    def _check(self, file: Kept, place: Path) -> None:
        """Compare a file of this machine's own with its checksum, once in each process."""
        if file in self._checked:
            return
        crc = 0
        try:
            with place.open("rb") as source:
                while block := source.read(BLOCK_BYTES):
                    crc = zlib.crc32(block, crc)
        except FileNotFoundError as error:
            raise RunError(f"{place} is missing: prepare it again") from error
        except OSError as error:
            raise RunError(f"can't read {place} ({error.strerror or error})") from error
        if (place.stat().st_size, crc) != (file.size, file.crc):
            raise RunError(self._damaged(file))
        self._checked.add(file)

    @contextmanager
    def _alone(self, place: Path) -> Iterator[None]:
        """One thread of this machine at a time, where there are locks."""
        lock = FileLock(place.with_name(place.name + LOCK))
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            acquire(lock, f"waiting for another process that fetches {place.name}")
        except NotImplementedError:
            pass  # several fetch it then, each by itself
        except OSError as error:
            raise UserError(
                f"can't write {place.parent} ({error.strerror or error}): see data.cache_dir"
            ) from error
        try:
            yield
        finally:
            lock.release()


def _is_left(path: Path) -> bool:
    """Whether who was writing a file is gone: the system has given up its lock."""
    whole = path.name.removesuffix(UNFINISHED).rpartition(".")[0]
    lock = FileLock(path.with_name(whole + LOCK))
    try:
        lock.acquire(timeout=0)
    except (Timeout, NotImplementedError, OSError):
        return False
    lock.release()
    return True
