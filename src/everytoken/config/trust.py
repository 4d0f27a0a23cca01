"""Which code a config may call: the user's own, and what this project names.

`_target_` can name any callable of Python, so a config is a program of whoever wrote it. A target
is trusted if a YAML under conf/ or in the folder of --config-dir names it, if the user has typed
it, or if it is defined in this checkout's own src/ outside of the engine, some of whose functions
start other programs. A run directory may be anybody's: it is data, unless its seal says that the
user's own command wrote it, see `seal.py`.
"""

import ast
import re
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from everytoken.config.code import missing
from everytoken.config.keys import conf_dir
from everytoken.config.literal import leaves, plain
from everytoken.config.seal import is_own as is_own_config
from everytoken.errors import UserError

ENGINE = __name__.partition(".")[0]

RUNS_COMMANDS = (
    *("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging"),
    *("job.env_set", "job.env_copy"),
)
"""Settings of Hydra that start code, before this program sees the config."""

OF_RUNS = (
    "_self_",
    {"override hydra/job_logging": "none"},
    {"override hydra/hydra_logging": "own"},
)
"""Defaults of a run's config."""

PLAIN = re.compile(r"\$\{(oc\.env:[^${}]*|[\w.]+)\}")
"""Interpolations that a run's config may hold: of the environment, and of another value."""

ENVIRONMENT = re.compile(r"\$\{\s*oc\.env:\s*([^\s,${}]+)")
"""With the name of the variable."""


def check_targets(
    cfg: DictConfig, place: str, trusted: Iterable[str] = (), skip: Collection[str] = ()
) -> None:
    """Refuse a config that names code which is neither the user's own nor this project's.

    Args:
        cfg: any config; nothing of it has been instantiated.
        place: what to call it in messages.
        trusted: names that are the user's own, see `typed_names` and `named_in`.
        skip: top-level keys from which nothing is going to be built.

    Raises:
        UserError: with what it names, and what to type if it is the user's own.
    """
    known = named_in_conf().union(trusted)
    for target in _targets(cfg, skip):
        if target not in known and not is_own(target):
            if why := missing(target):
                raise UserError(f"{place} names _target_={target}, as nothing in conf/, and {why}")
            raise UserError(
                f"{place} names _target_={target}, which is defined outside of src/ and which "
                "nothing under conf/ names: if you trust it, add --config-dir FOLDER with a YAML "
                f"that names it, or trust={target}, and see .github/SECURITY.md"
            )


def check_environment(
    cfg: DictConfig, place: str, trusted: Iterable[str] = (), skip: Collection[str] = ()
) -> None:
    """Refuse a run's config that takes what isn't its business out of the user's environment.

    A logger of somebody else could be given a secret as its notes. Arguments as of `check_targets`.

    Raises:
        UserError: with the variable, and what to type if it may be read.
    """
    known = _environment(conf_dir()).union(trusted)
    for key, value in _strings({k: v for k, v in plain(cfg).items() if k not in skip}):
        for name in ENVIRONMENT.findall(value):
            if name not in known:
                raise UserError(
                    f"{place} reads the environment variable {name} for {key}, and you haven't "
                    f"named it: if it may, add trust={name}, and see .github/SECURITY.md"
                )


def check_whole(file: Path) -> None:
    """Refuse a whole config, given with --config-name, that is more than data.

    It may hold of Hydra's own what the config of each run holds at its top, and nothing else; nor
    may it be composed of other files.

    Raises:
        UserError: with the key.
    """
    text = file.read_text(encoding="utf-8")
    cfg, ours = OmegaConf.load(file), OmegaConf.load(conf_dir() / "train.yaml")
    if not isinstance(cfg, DictConfig) or not isinstance(ours, DictConfig):
        raise UserError(f"{file} holds no settings: give one with KEY: VALUE")
    more, hydra = plain(cfg), dict(leaves(plain(ours)["hydra"], "hydra"))
    for key, value in leaves(more.get("hydra") or {}, "hydra"):
        if key not in hydra or value != hydra[key]:
            raise UserError(
                f"{file} sets {key}, and nothing of Hydra is taken from a whole config: take it "
                "out there, or give it on the command line"
            )
    others = [entry for entry in more.get("defaults") or [] if entry not in OF_RUNS]
    if others or "@package" in text:
        raise UserError(
            f"{file} is composed of {others or '@package'}, and a whole config stands alone: make "
            "it an experiment, FOLDER/experiment/NAME.yaml, for --config-dir FOLDER experiment=NAME"
        )


def check_data(cfg: DictConfig, place: str) -> None:
    """Refuse a run's config in which something is computed when it is read.

    Training writes all values out, but for those of the environment.

    Raises:
        UserError: with the key.
    """
    for key, value in _strings(plain(cfg)):
        if is_computed(value) or (key.endswith("_target_") and "${" in value):
            raise UserError(
                f"{place} computes {key}={value}, and a run's config holds plain values: if you "
                "trust it, write the value out, and see .github/SECURITY.md"
            )


def is_computed(text: str) -> bool:
    """True if a text has an interpolation that does more than look a value up."""
    return "${" in PLAIN.sub("", text)


def check_hydra(theirs: DictConfig, ours: DictConfig, folder: str) -> None:
    """Refuse a folder of YAML files, given with --config-dir, that would make Hydra call code.

    Args:
        theirs: the config with Hydra's own part, as the folder makes it.
        ours: the same without the folder.
        folder: what to call it in messages.

    Raises:
        UserError: with the setting.
    """
    raw = [OmegaConf.create(OmegaConf.to_container(cfg.hydra)) for cfg in (theirs, ours)]
    for key in RUNS_COMMANDS:
        found = [OmegaConf.select(part, key) for part in (theirs.hydra, ours.hydra)]
        written = [_written(part, key) for part in raw]
        if found[0] != found[1] or written[0] != written[1]:
            raise UserError(
                f"{folder} sets hydra.{key}, which can run commands: take it out there, "
                "or give it on the command line"
            )


def typed_names(overrides: Iterable[str]) -> frozenset[str]:
    """All dotted names in overrides that the user has typed."""
    return frozenset(name for line in overrides for name in re.findall(r"[\w.]+", line))


def own_names(file: Path) -> frozenset[str]:
    """All dotted names in a config that the user's own command wrote; none in any other."""
    return typed_names([file.read_text(encoding="utf-8")]) if is_own_config(file) else frozenset()


@cache
def _environment(folder: Path) -> frozenset[str]:
    """All environment variables that YAMLs in a folder read."""
    texts = (file.read_text(encoding="utf-8") for file in folder.rglob("*.yaml"))
    return frozenset(name for text in texts for name in ENVIRONMENT.findall(text))


@cache
def named_in_conf() -> frozenset[str]:
    """All `_target_`s of this project's own config."""
    return named_in(conf_dir())


def named_in(folder: Path) -> frozenset[str]:
    """All `_target_`s of the choices in a folder of config groups."""
    texts = (file.read_text(encoding="utf-8") for file in folder.glob("*/*.yaml"))
    return frozenset(name for text in texts for name in re.findall(r"\b_target_: *([\w.]+)", text))


@cache
def is_own(target: str) -> bool:
    """True for a class or function that a module under this checkout's src/ defines.

    What such a module only imports isn't its own.
    """
    *packages, name = target.split(".")
    src = conf_dir().parent / "src"
    if not packages or packages[0] == ENGINE or not (src / packages[0]).is_dir():
        return False
    module = src.joinpath(*packages)
    file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    if not file.is_file():
        return False
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except (SyntaxError, ValueError):
        return False  # importing it will say what is wrong
    defined = (ast.ClassDef, ast.FunctionDef)
    return any(isinstance(node, defined) and node.name == name for node in body)


def _targets(node: Any, skip: Collection[str] = ()) -> Iterator[str]:
    """All `_target_`s inside of a config, also in plain containers that a resolver returned."""
    if isinstance(node, DictConfig | dict):
        keys: Iterable[Any] = [key for key in node if key not in skip]
    elif isinstance(node, ListConfig | list | tuple):
        keys = range(len(node))
    else:
        return
    for key in keys:
        try:
            value = node[key]
        except OmegaConfBaseException:
            continue  # missing, or it can't be resolved: Hydra will refuse to build it
        if key == "_target_" and value is not None:
            yield str(value)
        else:
            yield from _targets(value)


def _strings(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _strings(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value, path)
    elif isinstance(node, str):
        yield path, node


def _written(cfg: Any, key: str) -> Any:
    parent, _, name = key.rpartition(".")
    part = OmegaConf.select(cfg, parent) if parent else cfg
    return OmegaConf.to_container(part).get(name) if isinstance(part, DictConfig) else None  # pyright: ignore
