"""JSON files of a run directory, as far as commands count on what they say."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from everytoken.errors import UserError, one_line

Kind = tuple[Callable[[Any], bool], str]
"""What a value must be, and that in words."""


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _resumptions(value: object) -> bool:
    known = {"time": str, "step": int, "changed": list}
    return isinstance(value, list) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(k), t) for k, t in known.items())
        for entry in value
    )


def _end(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _text(value.get("reason"))
        and isinstance(value.get("unless", {}), dict)
    )


def _origin(value: object) -> bool:
    return isinstance(value, dict) and _text(value.get("path")) and _text(value.get("sha256"))


ALWAYS: dict[str, Kind] = {
    "id": (_text, "a text"),
    "name": (lambda value: _text(value) or type(value) is int, "a text"),
    "created": (_text, "a time"),
}
"""What each run.json has."""

SOMETIMES: dict[str, Kind] = {
    "overrides": (_texts, "a list of texts"),
    "config_dir": (_text, "a folder"),
    "init_from": (_origin, 'an object with "path" and "sha256"'),
    "resumed": (_resumptions, 'a list of objects with "time", "step" and "changed"'),
    "ended_early": (_end, 'an object with a "reason"'),
    "versions": (lambda value: isinstance(value, dict), "an object"),
}
"""What those of some runs have."""


def read_object(file: Path, remedy: str) -> dict[str, Any]:
    """What a file holds.

    Args:
        file: of JSON, an object.
        remedy: what to do about one that is damaged.

    Raises:
        UserError: it can't be read, or holds something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds {found!r:.20}, no object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"can't read {file} ({one_line(error)}): {remedy}") from error
    return found


def read_identity(file: Path) -> dict[str, Any]:
    """What run.json says.

    Raises:
        UserError: it is damaged, or lacks what commands count on.
    """
    found = read_object(file, "restore it from a copy; if it is no run's, give another directory")
    for key, (fits, kind) in {**ALWAYS, **SOMETIMES}.items():
        if key not in found and key in ALWAYS:
            raise UserError(f'{file} lacks "{key}", {kind}: restore it from a copy, or add it')
        if key in found and not fits(found[key]):
            raise UserError(
                f'{file} has {found[key]!r:.20} as "{key}", which should be {kind}: restore it '
                "from a copy, or write that"
            )
    return found


def read_summary(file: Path) -> dict[str, float]:
    """What summary.json says, NaN for null.

    Raises:
        UserError: it is damaged.
    """
    remedy = "restore it from a copy, or remove it and go on with the run, which writes it again"
    found: Mapping[str, Any] = read_object(file, remedy)
    for name, value in found.items():
        if value is not None and type(value) not in (int, float):
            raise UserError(f"{file} has {value!r:.20} as {name}, which is no number: {remedy}")
    return {name: math.nan if value is None else value for name, value in found.items()}
