"""Which code a config may call: only what this project names itself, or the user has just typed.

`_target_` can name any callable of Python, so a config is a program of whoever wrote it. Configs
under conf/ and the command line are the user's own. A run directory may be anybody's.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from everytoken.config import check_name, conf_dir
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
                "it, name it in a YAML there (conf/callbacks/mine.yaml, say), and see SECURITY.md"
            )


def check_config_dir(folder: Path, config_name: str, own_name: str, words: list[str]) -> None:
    """Refuse a folder of YAML files, given with --config-dir, that would make Hydra call code.

    Args:
        folder: the folder.
        config_name: the primary config, in the folder or under conf/.
        own_name: the primary config that it stands for, under conf/.
        words: the overrides of the command line.

    Raises:
        UserError: with the setting; or a name that leads out of the runs directory.
    """
    primary = folder / f"{config_name.removesuffix('.yaml')}.yaml"
    if primary.is_file() and OmegaConf.select(OmegaConf.load(primary), "hydra.searchpath"):
        raise UserError(f"{primary} sets hydra.searchpath: give it on the command line instead")
    with initialize_config_dir(str(folder.absolute()), version_base="1.3"):
        search = f"hydra.searchpath=['file://{conf_dir()}']"
        theirs = compose(config_name, [search, *words], return_hydra_config=True)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        of_hydra = [word for word in words if re.match(r"[+~]*(hydra|launcher|sweep)\b", word)]
        ours = compose(own_name, of_hydra, return_hydra_config=True)
    for key in RUNS_COMMANDS:
        if OmegaConf.select(theirs.hydra, key) != OmegaConf.select(ours.hydra, key):
            raise UserError(
                f"{folder} sets hydra.{key}, which can run commands: take it out there, "
                "or give it on the command line"
            )
    if "name" in theirs:
        check_name(theirs.name)


@cache
def named_in_conf() -> frozenset[str]:
    """All `_target_`s of this project's own config."""
    texts = (file.read_text(encoding="utf-8") for file in conf_dir().rglob("*.yaml"))
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
