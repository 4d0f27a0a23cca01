"""Keeps secrets out of files, logs and messages: they are named by environment variable.

A config is written to the run directory and to trackers, and a command line is visible to
everyone on the machine. `${oc.env:NAME}` stays as it is in both, and is resolved where it is used.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from everytoken.errors import UserError
from everytoken.runtime.redact import IN_URL, SECRET

ASSIGNED = re.compile(r"""([\w-]+)["']?\s*[=:]\s*["']?(?=([^\s,}\]"']+))""")
"""A name and the first word of its value, somewhere in an override."""

NOT_OF_RUN = ("defaults", "hydra", "resume", "trust")
"""Keys that say how a run is started or repeated, not what it is."""

NO_SECRET = ("null", "true", "false", "???")


def check_overrides(overrides: list[str]) -> None:
    """Refuse secrets on the command line, without repeating them.

    Raises:
        UserError: with the key.
    """
    for override in overrides:
        path = override.partition("=")[0].lstrip("+")
        for key, value in ASSIGNED.findall(override):
            if SECRET.search(key) and value.lower() not in NO_SECRET and "${" not in value:
                _refuse(path if path.endswith(key) else key)
        if _password_in(override):
            _refuse(path)


def check_config(cfg: DictConfig) -> None:
    """Refuse secrets in a config, without repeating them.

    Raises:
        UserError: with the key.
    """
    for path, value in _leaves(OmegaConf.to_container(cfg)):
        secret = SECRET.search(path.rpartition(".")[2]) and str(value).lower() not in NO_SECRET
        if value and isinstance(value, str | int) and "${" not in str(value) and secret:
            _refuse(path)
        if isinstance(value, str) and _password_in(value):
            _refuse(path)


def settled(cfg: DictConfig) -> DictConfig:
    """The config of a job as it is checked and then built from: values, and no way to others.

    As `resolved`, with the keys that say how the job is started; as strict about unknown keys.

    Raises:
        OmegaConfBaseException: what can't be resolved, also of the environment.
    """
    started = {key: cfg[key] for key in NOT_OF_RUN if key in cfg}
    values = OmegaConf.merge(resolved(cfg), started)
    assert isinstance(values, DictConfig)
    check_set(values)
    OmegaConf.set_struct(values, OmegaConf.is_struct(cfg))
    return values


def resolved(cfg: DictConfig, *, strict: bool = True) -> Any:
    """A config with its interpolations resolved, but for those of the environment: no secrets.

    One that gets at the environment by way of another setting stays as it is, too.

    Args:
        cfg: the config.
        strict: False to leave what can't be resolved as it is written.

    Raises:
        OmegaConfBaseException: what can't be resolved, but for the environment.
    """
    names: list[str] = []  # of the variables that were asked for

    def env(name: str, *default: Any) -> Any:
        names.append(name)
        return oc.env(name, *default)

    def plain(node: Any) -> Any:
        if not isinstance(node, DictConfig | ListConfig):
            return node
        written: Any = OmegaConf.to_container(node)
        if isinstance(node, ListConfig):
            return [value(node, index, raw) for index, raw in enumerate(written)]
        kept = [key for key in node if node is not cfg or key not in NOT_OF_RUN]
        return {key: value(node, key, written[key]) for key in kept}

    def value(node: DictConfig | ListConfig, key: Any, raw: Any) -> Any:
        if OmegaConf.is_missing(node, key):
            return raw
        names.clear()
        try:
            found = node[key]
        except OmegaConfBaseException:
            if strict and not names:
                raise
            return raw
        return raw if names else plain(found)

    OmegaConf.register_new_resolver("oc.env", env, replace=True)
    try:
        return OmegaConf.create(plain(cfg))
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def check_set(cfg: DictConfig, skip: Collection[str] = ()) -> None:
    """Look all variables of the environment up that a config names, but for some of its top keys.

    Raises:
        InterpolationResolutionError: of the first that isn't set.
    """
    for key in cfg:
        if key not in skip and not OmegaConf.is_missing(cfg, key):
            value = cfg[key]
            if OmegaConf.is_config(value):
                OmegaConf.to_container(value, resolve=True)


def _password_in(text: str) -> bool:
    text = re.sub(r"\$\{[^}]*\}", "", text)
    in_query = re.findall(r"[?&]([\w-]+)=[^&\s]", text)
    return bool(IN_URL.search(text)) or any(SECRET.search(name) for name in in_query)


def _refuse(key: str) -> None:
    raise UserError(
        f"{key} holds a secret, which would be written down with the config: put it into an "
        f"environment variable and name that, '{key}=${{oc.env:NAME}}'"
    )


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, path)
    else:
        yield path, node
