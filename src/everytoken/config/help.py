"""What is answered without doing anything: --help, --version, --shell-completion.

The YAML files under conf/ say what each key means, in a comment beside it; that is what is shown.
"""

import inspect
import os
import re
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

from omegaconf import OmegaConf

from everytoken import __version__
from everytoken.config.check import Command, read_command
from everytoken.config.composing import composed
from everytoken.config.keys import conf_dir
from everytoken.config.literal import leaves, literal, plain
from everytoken.runtime.console import PACKAGE, console, invoked

COMMANDS = ("train", "eval", "generate", "audit", "compare")

COMPLETION = "--shell-completion"

UNREAD = {
    "eval": (
        *("trainer.max_steps", "trainer.max_epochs", "trainer.time_limit"),
        *("trainer.gradient_clip_val", "trainer.val_check_interval", "trainer.log_every_n_steps"),
        *("trainer.skip_nonfinite_steps", "trainer.sharded_checkpoints"),
        "trainer.async_checkpoints",
    ),
    "audit": (
        *("logger", "callbacks", "resume", "trainer.time_limit", "trainer.val_check_interval"),
        *("trainer.log_every_n_steps", "trainer.skip_nonfinite_steps"),
        *("trainer.sharded_checkpoints", "trainer.async_checkpoints"),
    ),
}
"""What a command has in its config, and does nothing with: it comes with choices of training."""

KEY = re.compile(r"^( *)([\w.]+):(?: (.*?))??(?: # (.*))?$")
"""A line of YAML with a key: indentation, key, value, comment."""

CHOICE = re.compile(r"^  - (\w+): \S+(?: # (.*))?$")
"""A line of a list of defaults that chooses of a group, and its comment."""

COLUMN = 36
"""Where comments begin."""

WIDEST = 110

SCRIPT = """\
# {name} completes groups, choices and keys in bash; in zsh after:
#   autoload -U bashcompinit && bashcompinit
# To switch it on: eval "$({invoked} {option})"
_{name}_complete() {{
    local words=($COMP_LINE) command
    if [[ ${{words[0]}} == {name}-* ]]; then
        command=("${{words[0]}}")
    elif [[ ${{words[1]}} == -m && " {commands} " == *" ${{words[2]}} "* ]]; then
        command=("${{words[@]:0:3}}")
    else
        return
    fi
    local IFS=$'\\n'
    COMPREPLY=($(COMP_LINE="${{COMP_LINE:0:$COMP_POINT}}" "${{command[@]}}" {option} 2>/dev/null))
}}
complete -o nospace -o default -F _{name}_complete python python3 {scripts}
"""


def answered(words: list[str], config_name: str, job: Callable[..., object]) -> str | None:
    """What is printed instead of doing anything; None if nothing was asked.

    Args:
        words: that were typed.
        config_name: the primary config under conf/.
        job: does the work of this command; its module says what that is.

    Raises:
        UserError, HydraException, OmegaConfBaseException: what can't be read.
    """
    if "--version" in words:
        return f"{PACKAGE} {__version__}"
    if COMPLETION in words or "-sc" in words:
        return completion(read_command(config_name), config_name)
    if "--help" in words or "-h" in words:
        return explained(read_command(config_name), config_name, job)
    return None


def explained(command: Command, config_name: str, job: Callable[..., object]) -> str:
    """What --help says; arguments and errors as of `answered`."""
    cfg = composed(command.folder, command.config_name, command.overrides)
    name = job.__module__.rpartition(".")[2]
    head = str(OmegaConf.to_container(cfg.hydra.help)["template"]).rstrip()  # pyright: ignore
    if name != config_name:  # a command that takes the settings of another
        what = f"It takes all that {config_name} takes; what it does nothing with isn't listed."
        head = f"{inspect.getdoc(inspect.getmodule(job))}\n\n{what}"
    unread = UNREAD.get(name, ())
    groups = [row for row in _groups(command, config_name) if row[0] not in unread]
    said = _comments(command, config_name)
    values = leaves({key: part for key, part in plain(cfg).items() if key != "hydra"})
    settings = [
        (f"{key}={value if isinstance(value, str) else literal(value)}", said.get(key, ""))
        for key, value in values
        if not key.endswith("_target_") and not key.startswith(unread)
    ]
    sections = {
        "Groups and their choices: GROUP=CHOICE": groups,
        "Settings, with the values that they have: KEY=VALUE": settings,
        "Options": OPTIONS.items(),
    }
    lines = [head]
    for title, rows in sections.items():
        lines += ["", f"== {title} ==", *_two_columns(rows)] if rows else []
    return "\n".join(lines)


OPTIONS = {
    "--cfg job": "print the config, and do nothing",
    "--multirun, -m": "a job for each of several values, as in seed=1,2,3",
    "--config-dir FOLDER": "take further choices from a folder, or a run's whole config",
    "--config-name NAME": "the whole config in that folder: config, in a run directory",
    "--help, --version": "this text; the version",
    COMPLETION: "print what makes a shell complete commands, and how to switch it on",
}


def completion(command: Command, config_name: str) -> str:
    """The script that makes a shell complete; or, if that asks, how its line may go on."""
    if (line := os.environ.get("COMP_LINE")) is None:
        scripts = " ".join(f"{PACKAGE}-{name}" for name in COMMANDS)
        names = {"name": PACKAGE, "commands": " ".join(COMMANDS), "scripts": scripts}
        return SCRIPT.format(**names, option=COMPLETION, invoked=invoked("train"))
    word = re.split(r"\s", line)[-1]
    return "\n".join(candidates(command, config_name, word))


def candidates(command: Command, config_name: str, word: str) -> list[str]:
    """How a word of a command line may go on: keys with their =, or what stands behind it."""
    key, is_value, begun = word.partition("=")
    if is_value:
        names = _choice_names(command, key.lstrip("+"))
        return [name for name in names if name.startswith(begun)]
    cfg = composed(command.folder, command.config_name, [])
    keys = [key for key, _ in leaves({k: v for k, v in plain(cfg).items() if k != "hydra"})]
    found = [f"{key}=" for key in [*(group for group, _ in _chosen(config_name)), *keys]]
    return sorted({name for name in found if name.startswith(word) and "_target_" not in name})


def _chosen(config_name: str) -> list[tuple[str, str]]:
    """Groups of a primary config, and the comments beside them."""
    lines = (conf_dir() / f"{config_name}.yaml").read_text(encoding="utf-8").splitlines()
    return [(found[1], found[2] or "") for found in map(CHOICE.match, lines) if found]


def _groups(command: Command, config_name: str) -> list[tuple[str, str]]:
    """Each group with what its comment says, and the choices that this doesn't name."""
    rows = []
    for group, comment in _chosen(config_name):
        more = [name for name in _choice_names(command, group) if name not in comment]
        parts = [comment, f"{'also ' if comment else ''}{', '.join(more)}" if more else ""]
        rows.append((group, "; ".join(filter(None, parts))))
    return rows


def _choice_names(command: Command, group: str) -> list[str]:
    return sorted({file.stem for file in _files(command, group)})


def _files(command: Command, group: str) -> list[Path]:
    folders = dict.fromkeys((command.folder / group, conf_dir() / group))
    return [file for folder in folders for file in sorted(folder.glob("*.yaml"))]


def _comments(command: Command, config_name: str) -> dict[str, str]:
    """What is said beside each key, by its dotted name; a chosen YAML comes before others."""
    cfg = composed(command.folder, command.config_name, command.overrides)
    chosen = {key: f"{choice}.yaml" for key, choice in cfg.hydra.runtime.choices.items()}
    first, others = [], []
    for group in dict.fromkeys([*chosen, *(group for group, _ in _chosen(config_name))]):
        for file in _files(command, group):
            said = beside_keys(file.read_text(encoding="utf-8"), group)
            (first if chosen.get(group) == file.name else others).append(said)
    primary = (conf_dir() / f"{config_name}.yaml").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for said in (*others, beside_keys(primary, ""), *first):
        found.update(said)
    return found


def beside_keys(text: str, group: str) -> dict[str, str]:
    """The comments beside the keys of a YAML file, by the keys' dotted names in a config."""
    found: dict[str, str] = {}
    package = re.search(r"^# @package (\S+)$", text, re.MULTILINE)
    top = group if package is None else package[1].replace("_global_", "")
    places: list[tuple[int, str]] = [(-1, top)]
    for line in text.splitlines():
        if key := KEY.match(line):
            while places[-1][0] >= len(key[1]):
                places.pop()
            place = f"{places[-1][1]}.{key[2]}".lstrip(".")
            places.append((len(key[1]), place))
            if key[4]:
                found[place] = key[4]
    return found


def _two_columns(rows: Iterable[tuple[str, str]]) -> Iterable[str]:
    width = min(console.width, WIDEST)
    for left, right in rows:
        told = textwrap.wrap(right, width - COLUMN, break_on_hyphens=False)
        beside = told.pop(0) if told and len(left) + 2 < COLUMN - 2 else ""
        yield f"  {left:{COLUMN - 2}}{beside}".rstrip()
        yield from (" " * COLUMN + line for line in told)
