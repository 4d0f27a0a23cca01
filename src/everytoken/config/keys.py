"""Where the config is, and the check of its keys, before anything heavy is imported.

The YAML files under conf/ own every key and every default. A key that they don't have is a
mistake, also when it was added with `+`: nothing would read it.
"""

import difflib
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from everytoken.errors import UserError

MOST_BYTES = 200
"""Of a run's name: file systems take 255 for a directory's, which begins with the time."""


def conf_dir() -> Path:
    """Where the YAML files are: inside an installed package, or beside src/ in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parents[1] / "conf"


def typed(kind: Literal["task", "hydra"]) -> list[str]:
    """Overrides of the command line, as they were typed: for the job's config, or for Hydra's."""
    words = OmegaConf.to_container(getattr(HydraConfig.get().overrides, kind))  # unresolved
    assert isinstance(words, list)
    return words


def check_keys(cfg: DictConfig) -> None:
    """Refuse keys that the command line added and that nothing reads.

    What may be added are arguments of a part that `_target_` names, and whole parts with a
    `_target_` of their own (a callback, say).

    Raises:
        UserError: with the nearest real key.
    """
    overrides = typed("task")
    if any(o.startswith("+") for o in overrides):
        plain = [o for o in overrides if not o.startswith("+")]
        known = set(
            key_paths(compose(HydraConfig.get().job.config_name, [*typed("hydra"), *plain]))
        )
        for key in key_paths(cfg):
            if key not in known:
                readers = keys_of_part(cfg, key)
                if key not in readers:
                    raise UserError(f"unknown key {key}{did_you_mean(key, [*readers, *known])}")


def keys_of_part(cfg: DictConfig, key: str) -> set[str]:
    """Keys that the part with a `_target_` around `key` reads; none if there is no such part."""
    path = key.split(".")
    for depth in range(len(path), 0, -1):
        prefix = ".".join(path[:depth])
        part = OmegaConf.select(cfg, prefix)
        if isinstance(part, DictConfig) and part.get("_target_") is not None:
            parameters = inspect.signature(get_object(part._target_)).parameters
            readers = {prefix, f"{prefix}._target_", *(f"{prefix}.{name}" for name in parameters)}
            inside = depth < len(path) - 1 and path[depth] in parameters
            takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
            return readers | ({key} if inside or takes_any else set())
    return set()


def key_paths(cfg: Any, prefix: str = "") -> Iterable[str]:
    """Dotted names of all keys of a config."""
    if isinstance(cfg, DictConfig):
        for key in cfg:
            path = f"{prefix}{key}"
            yield path
            if not OmegaConf.is_missing(cfg, key) and not OmegaConf.is_interpolation(cfg, str(key)):
                yield from key_paths(cfg[key], f"{path}.")


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """ ": did you mean …?" with the key that looks most like this one, or with none.

    A key that another choice of its group has is no misspelling, and that choice is named.
    """
    known = list(known)
    group, _, name = key.rpartition(".")
    files = sorted(conf_dir().joinpath(group).glob("*.yaml")) if group else []
    if choices := [f"{group}={file.stem}" for file in files if name in OmegaConf.load(file)]:
        return f": it comes with {' or '.join(choices)}"
    siblings = [k for k in known if k.rpartition(".")[0] == key.rpartition(".")[0]]
    near = (
        difflib.get_close_matches(key, siblings, n=1, cutoff=0.6)
        or [k for k in known if k.rsplit(".", 1)[-1] == name]
        or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    )
    return f": did you mean {near[0]}?" if near else ": see --cfg job for all keys"


def check_name(name: object) -> None:
    """Refuse a name that would put the run somewhere else.

    Raises:
        UserError: with what a name may hold.
    """
    if not isinstance(name, str | int) or not re.fullmatch(r"\w[\w.+=,-]*", str(name)):
        raise UserError(
            f"name={name!r} must be letters, digits and any of . _ - + = , and begin with a "
            "letter or digit: it is part of the run directory's name"
        )
    if (length := len(str(name).encode())) > MOST_BYTES:
        raise UserError(
            f"name={str(name)[:20]}… has {length} bytes: give at most {MOST_BYTES}, for it is "
            "part of the run directory's name"
        )
