"""A folder or an address to write files to."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from everytoken.corpora.remote import STALL_SECONDS, is_remote, opened, persistently
from everytoken.errors import UserError, one_line
from everytoken.runtime.files import replacing

Value = TypeVar("Value")

READ_ONLY = ("http", "https")

SLOWEST = 100_000
"""Bytes a second that a connection has at least while it takes a file."""


class Target:
    """Where files go.

    Args:
        path: a folder, which is made if it is needed, or an address.

    Raises:
        UserError: one that is for reading only, or what writes there isn't installed.
    """

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/")
        self.system: Any = None
        if is_remote(path):
            scheme = path.partition("://")[0]
            if scheme in READ_ONLY:
                raise UserError(f"{scheme}:// is for reading only: prepare elsewhere")
            self.system, self.place = opened(self.path)

    def has(self, name: str) -> bool:
        """Whether there is a file of that name.

        Raises:
            UserError: this isn't to be read.
            RunError: the server failed too often.
        """
        if self.system is None:
            return (Path(self.path).expanduser() / name).exists()
        return self._ask(lambda: bool(self.system.exists(f"{self.place}/{name}")), name)

    def put(self, file: Path, name: str) -> None:
        """Move a file of this machine there; in the place of one that has its name.

        Raises:
            UserError: nothing can be written there.
            RunError: the server failed too often.
        """
        if self.system is None:
            place = Path(self.path).expanduser() / name
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                with replacing(place) as new:
                    shutil.copyfile(file, new)
            except OSError as error:
                raise UserError(f"can't write {place} ({error.strerror or error})") from error
        else:
            seconds = STALL_SECONDS + file.stat().st_size / SLOWEST
            to = f"{self.place}/{name}"
            self._ask(lambda: self.system.put_file(str(file), to), name, seconds)
        file.unlink()

    def _ask(self, ask: Callable[[], Value], name: str, seconds: float = STALL_SECONDS) -> Value:
        try:
            return persistently(ask, f"{self.path}/{name}", seconds=seconds)
        except FileNotFoundError as error:
            raise UserError(f"nothing is at {self.path} ({one_line(error)})") from error
        except NotImplementedError as error:
            raise UserError(f"can't write to {self.path}: prepare elsewhere") from error
