"""Words of a command line as they were meant, where Hydra's grammar reads them otherwise."""

import re
from collections.abc import Iterable
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from everytoken.config.keys import conf_dir
from everytoken.config.literal import literal
from everytoken.corpora.files import at_home
from everytoken.errors import UserError

OVERRIDE = re.compile(r"(?P<key>[+~]{0,2}[A-Za-z_][\w./@:-]*)=(?P<value>.+)", re.DOTALL)
STRUCTURED = re.compile(r"""["'\[{(]|.*\$\{""", re.DOTALL)
"""Begins of values that are no plain text: quoted, lists, groups, functions; interpolations."""


def understood(words: list[str], takes_runs: bool) -> list[str]:
    """Overrides that Hydra can read.

    A text that its grammar doesn't allow unquoted is quoted, and ~/ at its begin is the home.

    Args:
        words: as they were typed.
        takes_runs: True where a folder alone is meant as run=FOLDER.
    """
    folders = [w for w in words if takes_runs and "=" not in w and at_home(w).is_dir()]
    others = [_quoted(word) for word in words if word not in folders]
    if not folders:
        return others
    named: list[str] | str = folders if len(folders) > 1 else folders[0]
    return [f"run={literal(named)}", *others]


def parse(overrides: list[str]) -> list[Override]:
    """The overrides; none if one of them can't be read, which Hydra will say."""
    try:
        return OverridesParser.create().parse_overrides(overrides)
    except HydraException:
        return []


def check_choices(overrides: list[str], folders: Iterable[Path]) -> None:
    """Refuse a group of which something else than a choice is chosen.

    Args:
        overrides: as they are read.
        folders: that hold choices.

    Raises:
        UserError: with the choices.
    """
    for override in parse(overrides):
        key = override.key_or_group
        names = {file.stem for folder in folders for file in (folder / key).glob("*.yaml")}
        if not names or "." in key or override.is_sweep_override() or override.is_delete():
            continue
        value = override.value()
        chosen = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str | None) for one in chosen):
            raise UserError(
                f"{key} must be one of {', '.join(sorted(names))}, got {value!r}; its keys are set "
                f"as {key}.KEY=VALUE"
            )


def unreadable(word: str, config_name: str) -> str:
    """What to type instead of a word that can't be read as an override of a command's config."""
    path = at_home(word)
    if path.exists():
        trains = "resume" if path.is_dir() else "data.path"
        key = trains if config_name == "train" else "run"
        return f"can't read {word} as key=value: is it {key}={word}?"
    group, _, choice = word.partition(".")
    if (conf_dir() / group / f"{choice}.yaml").is_file():
        return f"can't read {word} as key=value: did you mean {group}={choice}?"
    key, equals, value = word.partition("=")
    if equals and value and not STRUCTURED.match(value):
        return f"can't read {word!r} as key=value: is {key} a key? see --cfg job for all keys"
    if not OVERRIDE.fullmatch(word):
        return f"can't read {word!r} as key=value"
    way = f"close its brackets and quotes, or quote it for the shell and Hydra, \"{key}='…'\""
    return f"can't read {word!r} as key=value: {way}"


def _quoted(word: str) -> str:
    found = OVERRIDE.fullmatch(word)
    if not found or STRUCTURED.match(found["value"]):
        return word
    value = found["value"]
    if value.startswith("~/") or value == "~":
        return f"{found['key']}={literal(str(Path(value).expanduser()))}"
    return word if parse([word]) else f"{found['key']}={literal(value)}"
