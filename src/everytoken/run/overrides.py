"""The words of a command line, laid over the config of a run that goes on.

The run has the last word on what isn't named: a choice of a group changes what the group's choices
differ in, and no default of today replaces what the run was started with.
"""

import inspect
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml
from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from everytoken.config.keys import conf_dir, did_you_mean, key_paths, keys_of_part
from everytoken.errors import UserError
from everytoken.run.directory import Run


def with_words(run: Run, words: list[str]) -> DictConfig:
    """The config of a run, with the words of a command line laid over it.

    To be called inside Hydra's job.

    Args:
        words: KEY=VALUE or GROUP=CHOICE.

    Raises:
        UserError: a key that doesn't exist, a word of another kind, an old config that lacks keys.
    """
    cfg = run.config
    overrides = OverridesParser.create().parse_overrides(words)
    chosen = [o for o in overrides if (conf_dir() / o.key_or_group).is_dir()]
    for override in [*chosen, *(o for o in overrides if o not in chosen)]:
        key = override.key_or_group
        if key == "resume":
            continue
        if key.startswith("hydra.") or key in ("experiment", "debug", "sweep", "launcher", "hydra"):
            raise UserError(
                f"resume=DIR takes keys of its config and groups such as trainer, not {key}: leave "
                "it out"
            )
        if override.is_sweep_override():
            raise UserError(f"{override.input_line} has several values, and a run goes on with one")
        if override in chosen:
            _choose(cfg, override)
        elif override.is_delete():
            _delete(cfg, key)
        else:
            _set(cfg, override)
    if missing := dict(_missing(cfg)):
        words = [f"{key}={word(value)}" for key, value in missing.items()]
        raise UserError(
            f"{run.config_file} is of an older version and lacks {', '.join(missing)}: "
            f"add to the command {shlex.join(words)}"
        )
    return cfg


@cache
def _composed(*words: str) -> DictConfig:
    """The default config under the words of a command line: not to be changed, for it is kept."""
    cfg = compose("train", [*words])
    OmegaConf.set_readonly(cfg, True)
    return cfg


def _choose(cfg: DictConfig, override: Override) -> None:
    """Another choice of a group: what its choices differ in changes, the run's other values stay.

    So `trainer=ddp_cpu` changes the machine, and not back to the default how long is trained.
    """
    group = override.key_or_group
    names = [file.stem for file in (conf_dir() / group).glob("*.yaml")]
    lines = [f"{group}={name}" for name in names]
    choices = [dict(leaves(plain(_composed(line)[group]))) for line in lines]
    chosen = dict(leaves(plain(_composed(override.input_line or "")[group])))
    owned = {key for choice in choices for key in choice}
    own = dict(leaves(plain(cfg[group])))
    kept = {key: value for key, value in own.items() if key in chosen or key not in owned}
    for key, value in chosen.items():
        if key not in own or any(choice.get(key, value) != value for choice in choices):
            kept[key] = value
    cfg[group] = {}
    for key, value in kept.items():
        OmegaConf.update(cfg, f"{group}.{key}", value, force_add=True)


def _set(cfg: DictConfig, override: Override) -> None:
    key = override.key_or_group
    known = [*key_paths(cfg), *key_paths(_composed())]
    value = override.value()
    if key not in known:
        readers = keys_of_part(cfg, key)
        names_part = isinstance(value, dict) and "_target_" in value
        if key not in readers and not names_part:
            raise UserError(f"unknown key {key}{did_you_mean(key, [*readers, *known])}")
    OmegaConf.update(cfg, key, value, merge=False, force_add=True)


def _delete(cfg: DictConfig, key: str) -> None:
    parent, _, name = key.rpartition(".")
    part = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(part, DictConfig) or name not in part:
        raise UserError(f"unknown key {key}{did_you_mean(key, key_paths(cfg))}")
    part.pop(name)


def _missing(cfg: DictConfig) -> Iterator[tuple[str, Any]]:
    """Keys that this version reads and an older version's config lacks, with their defaults."""
    now = _composed()
    own = OmegaConf.load(conf_dir() / "train.yaml")
    groups = {name for entry in own.defaults if isinstance(entry, DictConfig) for name in entry}
    plain = [key for key in map(str, now) if key not in groups and key != "resume"]
    shared = [f"data.{key}" for key in own.data]
    machine = [f"trainer.{key}" for key in OmegaConf.load(conf_dir() / "trainer" / "auto.yaml")]
    for key in (*plain, *shared, *machine):
        parent, _, name = key.rpartition(".")
        if name not in (OmegaConf.select(cfg, parent) if parent else cfg):
            yield key, OmegaConf.select(now, key)
    for place, part in _parts(cfg):
        for name, parameter in inspect.signature(get_object(part["_target_"])).parameters.items():
            if parameter.default is parameter.empty and name not in part:
                yield from ((f"{place}.{name}", value) for value in _known(part, name))


def _known(part: dict[Any, Any], name: str) -> list[Any]:
    """What the YAML files say for an argument of what a part names: one value or none."""
    for other in _shipped_parts():
        if other["_target_"] == part["_target_"] and name in other:
            return [other[name]]
    return []


@cache
def _shipped_parts() -> list[dict[Any, Any]]:
    files = sorted(conf_dir().glob("*/*.yaml"))
    return [part for file in files for _, part in _parts(OmegaConf.load(file))]


def _parts(cfg: Any, place: str = "") -> Iterator[tuple[str, dict[Any, Any]]]:
    node = plain(cfg)
    if isinstance(node, dict):
        if node.get("_target_"):
            yield place, node
        for key, value in node.items():
            yield from _parts(value, f"{place}.{key}" if place else str(key))


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


def word(value: Any) -> str:
    """A value as it is typed on the command line."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()
