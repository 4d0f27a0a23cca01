"""`${mixed:…}` in YAML: the corpora of `data=mix`, each a choice of `data` with its settings."""

from collections.abc import Mapping
from math import inf
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from everytoken.config.keys import conf_dir
from everytoken.config.literal import plain
from everytoken.errors import UserError, one_line

OWN = ("data", "weight")
"""Keys of a part that are none of its corpus."""

NOT_OF_PART = ("kind", "corpus", "fields", "batch_tokens", "batch_size", "defaults")
"""Keys of a choice of `data` that a part has no use for."""

EXAMPLE = "'{a: {data: pydoc}, b: {data: text, path: FILE, weight: 2}}'"


def resolve(parts: Any, what: str, _root_: DictConfig) -> Any:
    """What `data.parts` says.

    Args:
        parts: by name: the choice (`data`), its settings, and `weight`, 1 if it isn't given.
        what: "corpora", configs that can be built, "weights", numbers, or "second", the first
            column of a second text, if any has one.
        _root_: the whole config.

    Raises:
        UserError: a part that makes no corpus, or a weight that isn't above 0.
    """
    if not isinstance(parts, Mapping | DictConfig) or not parts:
        raise UserError(f"data.parts must be corpora by name, as {EXAMPLE}; got {plain(parts)!r}")
    if what == "second":
        return _second(parts)
    found: dict[str, Any] = {}
    for name, part in parts.items():
        if not isinstance(part, Mapping | DictConfig) or not isinstance(part.get("data"), str):
            raise UserError(
                f"data.parts.{name} must say which data it is, as {EXAMPLE}; got {plain(part)!r}"
            )
        own = OmegaConf.to_container(part) if isinstance(part, DictConfig) else dict(part)
        assert isinstance(own, dict)
        weight = own.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < inf:
            raise UserError(f"data.parts.{name}.weight must be above 0, got {weight!r}")
        found[str(name)] = weight if what == "weights" else _corpus(str(name), own, _root_)
    return found


def _second(parts: Mapping[Any, Any] | DictConfig) -> str | None:
    columns = (part.get("second") for part in parts.values() if hasattr(part, "get"))
    return next(filter(None, columns), None)


def _corpus(name: str, part: dict[Any, Any], root: DictConfig) -> Any:
    """The corpus of a part, its settings filled in."""
    choice = conf_dir() / "data" / f"{part['data']}.yaml"
    if part["data"] == "mix" or not choice.is_file():
        known = sorted(file.stem for file in choice.parent.glob("*.yaml") if file.stem != "mix")
        raise UserError(f"data.parts.{name}.data={part['data']}: choose one of {', '.join(known)}")
    usual = OmegaConf.load(choice)
    assert isinstance(usual, DictConfig)
    settings = {key: value for key, value in part.items() if key not in OWN}
    known = [str(key) for key in usual if key not in NOT_OF_PART]
    inside = [str(k) for k in usual.corpus if not OmegaConf.is_interpolation(usual.corpus, k)]
    inside.remove("_target_")
    for key in settings:
        if key not in known and key not in inside:
            raise UserError(
                f"data.parts.{name}.{key} is read by nothing of data={part['data']}, which has "
                f"{', '.join(dict.fromkeys([*known, *inside]))}"
            )
    usual.merge_with({key: value for key, value in settings.items() if key in known})
    usual.corpus.merge_with({k: v for k, v in settings.items() if k not in known})
    if missing := [key for key in known if OmegaConf.is_missing(usual, key)]:
        raise UserError(f"data.parts.{name} needs {' and '.join(missing)}: give it there")
    whole = OmegaConf.create({"data": usual, "task": {"fields": list(root.task.fields)}})
    try:
        return OmegaConf.to_container(whole.data.corpus, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"data.parts.{name}: {one_line(error)}") from error


OmegaConf.register_new_resolver("mixed", resolve, replace=True)
