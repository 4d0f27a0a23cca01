"""Files that lie elsewhere (s3://, gs://, hf://, https://, …), read as streams through `fsspec`.

A server that fails, stalls or cuts off is asked again for what is missing, a limited number of
times. What is read is never written to this machine's disk: token ids are, see `data/cache`.
"""

import io
import re
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as StalledError
from pathlib import PurePosixPath
from threading import Thread
from typing import Any, NamedTuple, TypeVar

from everytoken.errors import RunError, UserError, one_line
from everytoken.runtime.console import install, warn
from everytoken.runtime.together import beat

Value = TypeVar("Value")

URL = re.compile(r"([a-z][a-z0-9+]*)://.+")

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""Names of extras that read what others don't, by the beginning of an address."""

TRIES = 6
"""How often a server is asked in vain, one after the other."""

FIRST_PAUSE, STALL_SECONDS = 0.5, 40.0
"""Before the second try, twice as long before each next; and after which an answer is missed. All
tries together take less than `trainer.hang_timeout`, which other ranks may wait meanwhile."""

BLOCK_BYTES = 1 << 22

UNKNOWN = (
    "Credential",
    "TokenRetrieval",
    "RefreshError",
    "UnauthorizedSSOToken",
    "Unauthenticated",
)
"""Names of errors with these in them say that nobody knows who asks: asking again doesn't help."""


class State(NamedTuple):
    """What is known of a file without reading it; the times are none that it has."""

    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int


class RemoteFile:
    """A file elsewhere, as far as a local path is used to read one.

    Args:
        url: its address.
        system: of `fsspec`.
        path: its path there.
        info: what the system says of it.
    """

    def __init__(self, url: str, system: Any, path: str, info: dict[str, Any]) -> None:
        self.url = url
        self.system = system
        self.path = path
        self.size: int | None = info.get("size")
        self.has_ranges = self.size is not None and info.get("partial", True)
        """Whether reading can begin in the middle, as far as that is known."""
        marks = ("ETag", "etag", "md5Hash", "sha256", "last_commit", "LastModified", "mtime")
        self.version = str([(mark, str(info[mark])) for mark in marks if info.get(mark)])
        place = PurePosixPath(path.partition("?")[0])
        self.name, self.suffix = place.name, place.suffix

    def __str__(self) -> str:
        return self.url

    def resolve(self) -> str:
        """What tells it from other files, and from what it was before."""
        return f"{self.url} {self.version}"

    def stat(self) -> State:
        """Its size."""
        return State(self.size or 0, 0, 0)

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """Its bytes, in order or not."""
        return io.BufferedReader(_Steadfast(self), BLOCK_BYTES)


class _Steadfast(io.RawIOBase):
    """Goes on where a connection broke off."""

    def __init__(self, file: RemoteFile) -> None:
        self.file = file
        self.place = 0
        self.stream: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.file.has_ranges

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.file.size or 0}[whence]
        if begin + offset != self.place:
            self.place = begin + offset
            self._leave()
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: Any) -> int:
        found = persistently(lambda: self._read(len(buffer)), str(self.file), self._leave)
        buffer[: len(found)] = found
        self.place += len(found)
        return len(found)

    def _read(self, most: int) -> bytes:
        if self.stream is None:
            system, path = self.file.system, self.file.path
            if self.file.has_ranges:
                self.stream = system.open(path, "rb", BLOCK_BYTES, cache_type="readahead")
                self.stream.seek(self.place)
            else:
                self.stream = system.open(path, "rb", block_size=0)
                self._skip()
        try:
            found = self.stream.read(most)
        except ValueError as error:  # how `fsspec` says it
            self.file.has_ranges = False
            raise OSError(one_line(error)) from error
        size = self.file.size
        if not found and size is not None and self.place < size:
            raise OSError(f"it ended after {self.place:,} of {size:,} bytes")
        return found

    def _skip(self) -> None:
        """Servers that can't begin in the middle begin at the beginning."""
        left = self.place
        while left and (found := self.stream.read(min(left, BLOCK_BYTES))):
            left -= len(found)
        if left:
            raise OSError(f"it ended {left:,} bytes before where it was")

    def _leave(self) -> None:
        self.stream = None  # closing one that hangs may hang

    def close(self) -> None:
        self._leave()
        super().close()


def is_remote(path: object) -> bool:
    """Whether a path is an address."""
    return URL.fullmatch(str(path)) is not None


def find_remote(url: str, is_meant: Callable[[str], bool]) -> list[RemoteFile]:
    """The files of an address: one, those of a folder, or of a pattern; by name.

    Args:
        url: what was typed.
        is_meant: whether a file of a folder is meant with it, by its name.

    Raises:
        UserError: nothing is there, or what reads it isn't installed.
        RunError: the server doesn't answer.
    """
    system, path = opened(url)
    start = url[: len(url) - len(path)] if url.endswith(path) else f"{url.partition('://')[0]}://"

    def of(info: dict[str, Any]) -> RemoteFile:
        place = str(info["name"])
        return RemoteFile(place if is_remote(place) else start + place, system, place, info)

    def look() -> list[RemoteFile]:
        if "*" in path:
            return [of(info) for _, info in sorted(system.glob(path, detail=True).items())]
        info = system.info(path)
        if info.get("type") != "directory":
            return [of({**info, "name": path})]
        found = sorted(system.find(path, detail=True).items())
        return [of(info) for place, info in found if is_meant(PurePosixPath(place).name)]

    try:
        files = persistently(look, url)
    except FileNotFoundError as error:
        raise UserError(f"nothing is at {url}: give a file, a folder or a pattern") from error
    if not files:
        raise UserError(f"{url} has nothing to read")
    return files


def opened(url: str) -> tuple[Any, str]:
    """The file system of an address, and the path there.

    Raises:
        UserError: what reads it isn't installed.
    """
    import fsspec  # only here: it takes long

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        scheme = url.partition("://")[0]
        how = install(EXTRAS[scheme]) if scheme in EXTRAS else one_line(error)
        raise UserError(f"what reads {scheme}:// isn't installed: {how}") from error
    except ValueError as error:
        raise UserError(f"can't read {url}: {one_line(error)}") from error


def persistently(
    ask: Callable[[], Value],
    what: str,
    between: Callable[[], None] = lambda: None,
    seconds: float | None = None,
) -> Value:
    """What a server answers; it is asked again if it fails, or keeps silent.

    Args:
        ask: asks once.
        what: is asked for, in words.
        between: is done before it is asked again.
        seconds: after which an answer is missed; None for `STALL_SECONDS`.

    Raises:
        FileNotFoundError, NotImplementedError: it is answered that this isn't there, or can't be.
        UserError: it isn't for us.
        RunError: it has failed too often.
    """
    why: object = None
    seconds = STALL_SECONDS if seconds is None else seconds
    for attempt in range(TRIES):
        beat()  # others may wait for what a slow server gives
        if attempt:
            between()
            time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
        try:
            return _started(ask).result(seconds)
        except (FileNotFoundError, NotImplementedError):
            raise
        except PermissionError as error:
            raise UserError(f"{what} isn't to be read: {one_line(error)}") from error
        except StalledError:
            why = f"it gave nothing for {seconds:g} seconds"
        except Exception as error:  # each system raises its own kinds
            kind = type(error).__name__
            if any(name in kind for name in UNKNOWN):
                scheme = what.partition("://")[0]
                raise UserError(
                    f"{what} asks who you are, and nothing says it ({one_line(error)}): set the "
                    f"credentials of {scheme}:// as its own tools take them"
                ) from error
            why = f"{kind}: {one_line(error)}"
        if attempt == 1:
            warn(f"{what} is asked for again ({why})")
    raise RunError(f"can't read {what}, which failed {TRIES} times ({why}): is its server up?")


def _started(ask: Callable[[], Value]) -> "Future[Value]":
    """An answer to come, from a thread that keeps no process from its end as executors' do."""
    future: Future[Value] = Future()

    def run() -> None:
        try:
            future.set_result(ask())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future
