"""Where a YAML says something: its file and line, for messages."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig

from everytoken.config.keys import WHOLE, conf_dir, typed
from everytoken.errors import UserError


def place(key: str, folder: Path) -> str:
    """ "FILE, line NUMBER: " for a key that a chosen YAML sets; "" if none does, or it was typed.

    Args:
        key: a dotted one.
        folder: of --config-dir, or conf/.
    """
    if not HydraConfig.initialized():
        return ""
    if any(word.lstrip("+").startswith((f"{key}=", f"{key}.")) for word in typed("task")):
        return ""
    for group, file in _chosen(folder):
        if line := lines_of_keys(file.read_text(encoding="utf-8"), group).get(key):
            return f"{_short(file)}, line {line}: "
    return ""


def lines_of_keys(text: str, group: str) -> dict[str, int]:
    """The line of each key of a YAML, from 1, by its dotted name in a config.

    Args:
        text: of the file.
        group: that it is a choice of, which is where its keys go unless it says otherwise.
    """
    package = re.search(r"^# @package (\S+)$", text, re.MULTILINE)
    top = group if package is None else re.sub("^_global_[.]?", "", package[1])
    found: dict[str, int] = {}

    def walk(node: yaml.Node | None, path: str) -> None:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            name = f"{path}.{key.value}".lstrip(".")
            found.setdefault(name, key.start_mark.line + 1)
            walk(value, name)

    try:
        walk(yaml.compose(text), top)
    except yaml.YAMLError:
        return {}  # Hydra has read it, in another way
    return found


def check_no_list(folder: Path) -> None:
    """Refuse a chosen YAML that holds a list.

    Args:
        folder: of --config-dir, or conf/.

    Raises:
        UserError: with its file.
    """
    for _, file in _chosen(folder) if HydraConfig.initialized() else ():
        if re.match(r"(\s|#.*\n|---)*- ", file.read_text(encoding="utf-8")):
            raise UserError(
                f"{_short(file)} begins with a list, and a choice has keys: write KEY: VALUE"
            )


def matching(pattern: str, folder: Path, overrides: list[str]) -> str:
    """ "FILE, line NUMBER: " of a line in a folder's YAMLs, chosen ones first; "" if none has it.

    Args:
        pattern: a regular expression for a part of it.
        folder: of --config-dir, or conf/.
        overrides: that were typed.
    """
    typed = {word.partition("=")[2] for word in overrides}
    for file in sorted(folder.rglob("*.yaml"), key=lambda file: (file.stem not in typed, file)):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if re.search(pattern, line):
                return f"{_short(file)}, line {number}: "
    return ""


def told(error: yaml.YAMLError) -> str:
    """What is wrong with a YAML that can't be read, in one line."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    problem = str(getattr(error, "problem", "")).replace("\t", "a tab")
    return (
        f"{_short(Path(mark.name))}, line {mark.line + 1}: {problem}: keys of one group begin in "
        "one column, with spaces and no tabs, and a space comes after a colon"
    )


def _short(file: Path) -> Path:
    """A path from here, where that is shorter."""
    here = Path.cwd()
    return file.relative_to(here) if file.is_relative_to(here) else file


def _chosen(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files of the groups' choices, those first that set keys of others, and win."""
    choices = HydraConfig.get().runtime.choices
    for group in sorted(map(str, choices), key=lambda group: group not in WHOLE):
        for name in re.findall(r"[\w./-]+", str(choices[group])):
            for place in dict.fromkeys((folder, conf_dir())):
                if (file := place / group / f"{name}.yaml").is_file():
                    yield group, file
