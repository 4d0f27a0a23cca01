"""Where the config is, and the check of its keys, before anything heavy is imported.

The YAML files under conf/ own every key and every default. A key that they don't have is a
mistake, also when it was added with `+`: nothing would read it.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Literal

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

import everytoken.hf.config  # noqa: F401 (a resolver that conf/ uses)
from everytoken.config.hints import ANSWERS
from everytoken.config.literal import plain
from everytoken.errors import UserError, one_line

OPEN = ("callbacks", "metrics", "logger")
"""Groups in which each entry is a part of its own."""

READ = {
    "task": ("name", "shape", "fields", "objective", "max_new_tokens", "metrics"),
    "data": (
        *("kind", "corpus", "batch_tokens", "batch_size", "microbatch_tokens", "padding_side"),
        *("pad_to_multiple_of", "limit_examples", "most_held_out", "cache_dir", "num_workers"),
        *("mixture", "curriculum_epochs", "shuffle_blocks", "fields"),
    ),
    "trainer": (
        *("accelerator", "devices", "num_nodes", "strategy", "max_steps", "max_epochs"),
        *("time_limit", "hang_timeout", "gradient_clip_val", "val_check_interval"),
        *("log_every_n_steps", "skip_nonfinite_steps", "sharded_checkpoints"),
        *("async_checkpoints", "tensor_parallel"),
    ),
    "precision": ("name", "mode", "fused_optimizer"),
}
"""What is read of groups that are no part; other keys, by who refers to them: ${data.path}."""

MOST_BYTES = 200
"""Of a run's name: file systems take 255 for a directory's, which begins with the time."""


ALIKE_HERE = 0.61
"""How much a word must look like another in the same place to be a slip, from 0 to 1 …"""

ALIKE = 0.8
"""… and like one in another place."""


def conf_dir() -> Path:
    """Where the YAML files are: inside an installed package, or beside src/ in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parents[1] / "conf"


def typed(kind: Literal["task", "hydra"]) -> list[str]:
    """Overrides of this job, as they were typed: for the job's config, or for Hydra's."""
    overrides = OmegaConf.to_container(getattr(HydraConfig.get().overrides, kind))  # unresolved
    assert isinstance(overrides, list)
    return overrides


Place = Callable[[str], str]
"""The file and line that sets a key, see `places.place`."""

WHOLE = ("experiment", "debug", "sweep")
"""Groups whose choices set keys of all others, and have none of their own."""


def check_keys(cfg: DictConfig, place: Place = lambda key: "") -> None:
    """Refuse keys that nothing reads.

    At the top there is nothing to add. Below, what may be added with a plus are arguments of a part
    that `_target_` names, and whole parts where any number of them is read: a callback, a metric.

    Args:
        cfg: as it was composed, or resolved.
        place: tells where a YAML sets a key.

    Raises:
        UserError: with the nearest real key; or for a `_target_` that can't be imported.
    """
    name = str(HydraConfig.get().job.config_name)
    read = top_keys(name if conf_dir().joinpath(f"{name}.yaml").is_file() else "train")
    for key in cfg:
        if key not in read:
            nested = f": nest it, as {str(key).replace('.', ': {')}: …" if "." in str(key) else ""
            hint = nested or did_you_mean(str(key), read)
            raise UserError(f"{place(str(key))}unknown key {key}{hint}")
        if key in WHOLE and cfg[key]:  # its choice isn't kept in the config, keys of its own are
            first = [*key_paths(DictConfig({key: cfg[key]})), key][1]
            raise UserError(
                f"{place(first)}sets {first}, which nothing reads: begin this file with the line "
                "# @package _global_"
            )
    overrides = typed("task")
    if any(o.startswith("+") for o in overrides):
        plain = [o for o in overrides if not o.startswith("+")]
        known = {*key_paths(compose(name, [*typed("hydra"), *plain]))}
        for key in key_paths(cfg):
            if not _is_read(cfg, key, known):
                near = [*_arguments(cfg, key.rpartition(".")[0]), *known]
                raise UserError(f"unknown key {key}{did_you_mean(key, near)}")


def check_read(cfg: DictConfig, place: Place = lambda key: "") -> None:
    """Refuse keys in YAMLs that nothing reads, in groups that aren't arguments of a part.

    Args:
        cfg: as it was composed, with its interpolations.
        place: tells where a YAML sets a key.

    Raises:
        UserError: with the nearest key that is read.
    """
    text = OmegaConf.to_yaml(cfg)
    for group, read in READ.items():
        part = cfg.get(group)
        for key in part if isinstance(part, DictConfig) else ():
            known = [f"{group}.{name}" for name in read]
            if key not in read and not re.search(rf"\$\{{{group}\.{re.escape(str(key))}\b", text):
                where = f"{group}.{key}"
                raise UserError(f"{place(where)}unknown key {where}{did_you_mean(where, known)}")


def top_keys(config_name: str) -> list[str]:
    """Keys at the top of a primary config: its own settings, and the groups that it chooses of."""
    cfg = OmegaConf.load(conf_dir() / f"{config_name}.yaml")
    assert isinstance(cfg, DictConfig)
    chosen = [entry for entry in cfg.defaults if isinstance(entry, DictConfig)]
    groups = [str(key) for entry in chosen for key in entry if not str(key).startswith("override")]
    return [*groups, *(str(key) for key in cfg if key not in ("defaults", "hydra"))]


def _is_read(cfg: DictConfig, key: str, known: Collection[str]) -> bool:
    if key in known:
        return True
    parent = key.rpartition(".")[0]
    if _is_part(cfg, parent):
        arguments = _arguments(cfg, parent)
        return _is_read(cfg, parent, known) and (key in arguments or f"{parent}.*" in arguments)
    if parent in OPEN:
        return _is_part(cfg, key)
    # Inside of an argument everything is the part's own affair.
    inside = any(_is_part(cfg, place) for place in _above(parent))
    return inside and _is_read(cfg, parent, known)


def _above(key: str) -> Iterable[str]:
    while key:
        key = key.rpartition(".")[0]
        yield key


def _is_part(cfg: DictConfig, key: str) -> bool:
    part = OmegaConf.select(cfg, key) if key else None
    return isinstance(part, DictConfig) and part.get("_target_") is not None


def _arguments(cfg: DictConfig, key: str) -> set[str]:
    """Keys of what a part takes, also those of Hydra; KEY.* if it takes any; none if it's no part.

    Raises:
        UserError: there is no such code, or it can't be imported.
    """
    if not _is_part(cfg, key):
        return set()
    target = OmegaConf.select(cfg, key)._target_
    try:
        parameters = inspect.signature(get_object(target)).parameters
    except Exception as error:  # whatever importing the user's own module raises
        raise UserError(f"{key}._target_={target} can't be imported: {one_line(error)}") from error
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [*parameters, "_target_", "_args_", "_partial_", *["*"] * takes_any]
    return {f"{key}.{name}" for name in names}


def key_paths(cfg: Any, prefix: str = "") -> Iterable[str]:
    """Dotted names of all keys of a config."""
    if isinstance(cfg, DictConfig):
        for key in cfg:
            path = f"{prefix}{key}"
            yield path
            if not OmegaConf.is_missing(cfg, key) and not OmegaConf.is_interpolation(cfg, key):  # pyright: ignore
                yield from key_paths(cfg[key], f"{path}.")


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """ ": did you mean …?" with the key that this one must have been meant for, or with none.

    A key that another choice of its group has is no misspelling, and that choice is named.

    Args:
        key: a dotted one.
        known: those that there are.
    """
    known = list(dict.fromkeys(known))
    name = key.rpartition(".")[2]
    if choices := _choices_with(key):
        return f": it comes with {' or '.join(choices)}"
    if name not in ANSWERS and (near := _nearest(key, known)):
        return f": did you mean {near}?"
    answer = ANSWERS.get(name, ANSWERS.get(key.partition(".")[0]))
    if not answer and (parts := _parts_with(key)):
        return f": it comes with {parts[0]}"
    return answer or ": see --cfg job for all keys"


def _choices_with(key: str) -> list[str]:
    """Choices of the key's group that have it."""
    group, _, inside = key.partition(".")
    files = sorted(conf_dir().joinpath(group).glob("*.yaml")) if inside else []
    found = [f for f in files if inside in _places(plain(OmegaConf.load(f)))]
    return [f"{group}={file.stem}" for file in found]


def _parts_with(key: str) -> list[str]:
    """Choices with a part that has the last name of a key, and the key that it is there."""
    group, _, name = key.partition(".")
    files = sorted(conf_dir().joinpath(group).glob("*.yaml")) if group in OPEN else []
    return [
        f"{group}={file.stem}, as {group}.{place}"
        for file in files
        for place in _places(plain(OmegaConf.load(file)))
        if place.endswith(f".{name}")
    ]


def _places(node: Any, place: str = "") -> Iterable[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{place}{key}"
        yield from _places(value, f"{place}{key}.")


def _nearest(key: str, known: list[str]) -> str | None:
    """A slip away in the same place, or of the same name or a slip away elsewhere."""
    group, _, name = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == group}
    if swapped := [k for word, k in siblings.items() if sorted(word) == sorted(name)]:
        return swapped[0]
    # At the top many words of others meet few of ours: only a letter or two may differ there.
    words = [w for w in siblings if group or (w[:1] == name[:1] and abs(len(w) - len(name)) < 3)]
    if near := difflib.get_close_matches(name, words, n=1, cutoff=ALIKE_HERE):
        return siblings[near[0]]
    if name.startswith("_"):
        return None
    elsewhere = {k.rpartition(".")[2]: k for k in sorted(known, key=lambda k: -k.count("."))}
    near = difflib.get_close_matches(name, elsewhere, n=1, cutoff=ALIKE)
    return elsewhere[near[0]] if near else None


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
