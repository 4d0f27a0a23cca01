"""Configs and commands as text: what is printed is read back as it was meant."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from everytoken.runtime.console import invoked

PLAIN = re.compile(r"[A-Za-z_/.][A-Za-z0-9_./+-]*")
"""Text that needs no quotes in an override, but for …"""

NOT_TEXT = ("null", "true", "false", "nan", "inf")
"""… this, which Hydra reads as something else."""

CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""Line breaks and their like."""


def shown_command(command: str, *words: str | Path, **settings: object) -> str:
    """A command as it can be pasted into a shell.

    Args:
        command: "train" and the like; or a whole one, "python scripts/replay.py".
        words: options and files.
        settings: KEY=VALUE, as Hydra reads them.
    """
    given = [f"./{word}" if _is_like_option(word) else str(word) for word in words]
    given += [f"{key}={literal(_text(value))}" for key, value in settings.items()]
    start = command if " " in command else invoked(command)
    return " ".join([start, *map(shell_word, given)])


def shell_word(word: str) -> str:
    """A word as a shell reads it, on one line."""
    if not CONTROL.search(word):
        # What has single quotes in it is easier to read in double ones.
        in_double = "'" in word and not re.search(r'["$`\\!]', word)
        return f'"{word}"' if in_double else shlex.quote(word)
    escaped = re.sub(r"[\\']", r"\\\g<0>", word)
    return "$'" + CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", escaped) + "'"


def plain(cfg: Any) -> Any:
    """Containers of Python, interpolations as they are written."""
    return OmegaConf.to_container(cfg) if OmegaConf.is_config(cfg) else cfg


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of what `plain` gives, and their values."""
    if isinstance(value, dict) and value:
        for key, inside in value.items():
            yield from leaves(inside, f"{place}.{key}" if place else str(key))
    elif value != {}:
        yield place, value


def literal(value: Any) -> str:
    """A value as Hydra's grammar of overrides reads it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(literal, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int | float):
        return str(value)
    if PLAIN.fullmatch(str(value)) and str(value).lower() not in NOT_TEXT:
        return str(value)
    # Backslashes count as such only before a quote.
    quoted = re.sub(r"(\\*)('|\Z)", lambda m: 2 * m[1] + (m[2] and "\\'"), str(value))
    return f"'{quoted}'"


def _is_like_option(word: str | Path) -> bool:
    return isinstance(word, Path) and str(word).startswith("-")


def _text(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
