"""Which code a config may call: only what this project names itself, or the user has just typed.

`_target_` can name any callable of Python, so a config is a program of whoever wrote it. Configs
under conf/ and the command line are the user's own. A run directory may be anybody's.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from everytoken.config.keys import conf_dir
from everytoken.errors import UserError

RUNS_COMMANDS = (
    *("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging"),
    *("job.env_set", "job.env_copy"),
)
"""Settings of Hydra that start code, before this program sees the config."""


def check_targets(cfg: DictConfig, place: str, typed: Iterable[str] = ()) -> None:
    """Refuse a config that names code which no YAML under conf/ does.

    To live in this package is not enough: some of its functions start other programs.

    Args:
        cfg: any config; nothing of it has been instantiated.
        place: what to call it in messages.
        typed: words of the user's own command line, which may name anything.

    Raises:
        UserError: with what it names.
    """
    trusted = named_in_conf().union(*(re.findall(r"[\w.]+", word) for word in typed))
    for target in _targets(cfg):
        if target not in trusted:
            raise UserError(
                f"{place} names _target_={target}, which nothing under conf/ does: if you trust "
                "it, name it in a YAML there (conf/callbacks/x.yaml), and see .github/SECURITY.md"
            )


def check_hydra(theirs: DictConfig, ours: DictConfig, folder: str) -> None:
    """Refuse a folder of YAML files, given with --config-dir, that would make Hydra call code.

    Args:
        theirs: the config with Hydra's own part, as the folder makes it.
        ours: the same without the folder.
        folder: what to call it in messages.

    Raises:
        UserError: with the setting.
    """
    for key in RUNS_COMMANDS:
        if OmegaConf.select(theirs.hydra, key) != OmegaConf.select(ours.hydra, key):
            raise UserError(
                f"{folder} sets hydra.{key}, which can run commands: take it out there, "
                "or give it on the command line"
            )


@cache
def named_in_conf() -> frozenset[str]:
    """All `_target_`s of this project's own config."""
    return named_in(conf_dir())


def named_in(folder: Path) -> frozenset[str]:
    """All `_target_`s of the choices in a folder of config groups."""
    texts = (file.read_text(encoding="utf-8") for file in folder.glob("*/*.yaml"))
    return frozenset(name for text in texts for name in re.findall(r"\b_target_: *([\w.]+)", text))


def _targets(node: Any) -> Iterator[str]:
    if not isinstance(node, DictConfig | ListConfig):
        return
    for key in node if isinstance(node, DictConfig) else range(len(node)):
        try:
            value = node[key]  # pyright: ignore[reportArgumentType]
        except OmegaConfBaseException:
            continue  # missing, or it can't be resolved: so it can't be called either
        if key == "_target_" and value is not None:
            yield str(value)
        else:
            yield from _targets(value)
