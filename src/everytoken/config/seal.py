"""Which configs of runs are the user's own: they carry a seal that only this user can make.

A run directory may be anybody's, so what its config names is not called. But what this user has
trained, typed or chosen from a folder once, need not be typed again: the config that a command
writes ends with a keyed hash of its text, and the key never leaves the user's home. A config that
was changed, or comes from elsewhere, has no such seal, and is somebody else's.
"""

import hmac
import os
import re
import secrets
from contextlib import suppress
from functools import cache
from pathlib import Path

from everytoken.runtime.files import replacing

BYTES = 32
"""Of the key."""

LINE = re.compile(r"# seal: (?P<seal>[0-9a-f]{64})\n\Z")
"""The last line of a config: of all lines above it, by whoever wrote them."""


def sealed(text: str) -> str:
    """A config's text with a seal below it; without one where no key can be kept."""
    key = _key()
    return text if key is None else f"{text}# seal: {_seal(key, text)}\n"


def is_own(file: Path) -> bool:
    """True for a config that this user's own command wrote, and that nobody has changed."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False  # who reads it will say why it can't be read
    found, key = LINE.search(text), _key()
    if found is None or key is None:
        return False
    return hmac.compare_digest(found["seal"], _seal(key, text[: found.start()]))


def _seal(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def _key() -> bytes | None:
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return _key_in(Path(home).expanduser() / "everytoken")


@cache
def _key_in(folder: Path) -> bytes | None:
    """The user's key, made at its first use; None where it can't be kept to the user."""
    file = folder / "key"
    try:
        if not file.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (
                suppress(FileExistsError),  # another process was faster
                replacing(file, shared=True, move=os.link) as new,
                open(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as out,
            ):
                out.write(secrets.token_bytes(BYTES))
        state = file.stat()
        if state.st_uid != os.getuid() or state.st_mode & 0o077:
            return None  # others may know it
        return file.read_bytes() if state.st_size == BYTES else None
    except (OSError, RuntimeError):  # a home that is read-only, or none at all
        return None
