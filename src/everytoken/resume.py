"""Which run a command continues, and with what config.

`resume=DIR` takes the run's own config and lays the command line's words over it; `resume=auto`
takes the config of the command line, and looks for an unfinished run of it. What was learned must
go on to fit: changes of the model are refused, those that shape learning are told.
"""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from everytoken.cli import create_run, is_run_dir_given, run_dir
from everytoken.config import conf_dir, did_you_mean, key_paths, keys_of_part
from everytoken.console import say, warn
from everytoken.errors import UserError
from everytoken.runs import Run, remove_empty, resolved
from everytoken.settings import check_training

AUTO = "auto"

FIXED = ("model", "tokenizer", "task", "optimizer._target_")
"""What the weights and the optimizer's state are bound to."""

FREE = (
    *("trainer", "logger", "callbacks", "launcher", "compile", "name", "metrics", "decoding"),
    *("data.num_workers", "data.cache_dir", "data.microbatch_tokens", "model.attention"),
)
"""What says where and how a run is made, and never changes what is learned …"""

LIMITS = ("trainer.max_steps", "trainer.max_epochs")
"""How long a run is."""

NOT_FREE = ("trainer.gradient_clip_val",)
"""… but for this."""


def directory_of(words: list[str]) -> Path | None:
    """The directory that a command line resumes by name; None if it says so in no plain way."""
    try:
        overrides = OverridesParser.create().parse_overrides(words)
    except HydraException:
        return None  # Hydra will tell
    named = [o for o in overrides if o.key_or_group == "resume"]
    if not named or named[-1].is_sweep_override() or named[-1].value() in (None, AUTO):
        return None
    return Path(str(named[-1].value()))


def choose(cfg: DictConfig, words: list[str], held: ExitStack) -> Path | None:
    """Make or find the run directory that a command trains in, ready for it, and lock it.

    Args:
        cfg: the config that Hydra composed.
        words: the command line.
        held: keeps the lock.

    Returns:
        None if the run is finished.

    Raises:
        UserError: no such run, or one that can't go on like this.
    """
    if cfg.resume is None:
        run = create_run(cfg)
        held.enter_context(run.locked())
        return run.path
    if cfg.resume != AUTO:
        run = Run.open_whole(Path(str(cfg.resume)).absolute())
        held.enter_context(run.locked())
        cfg = with_words(run, words)
        check_training(cfg)
        if not continued(run, cfg):
            raise UserError(
                f"{run.shown} is finished: nothing to resume, unless trainer.max_steps is raised"
            )
        return run.path
    here = Run(run_dir())
    found = here if here.identity_file.is_file() else None
    if found is None and not is_run_dir_given():
        found = newest_unfinished(cfg)
    if found is None:
        say("resume=auto: no unfinished run of this config here, so a new one starts")
        run = create_run(cfg)
        held.enter_context(run.locked())
        return run.path
    if found != here:
        remove_empty(here.path)
    held.enter_context(found.locked())
    if not found.config_file.is_file():  # killed as it began
        found.write_config(resolved(cfg))
    if continued(found, cfg):
        return found.path
    say(f"{found.shown} is finished: nothing to do")
    return None


def continued(run: Run, cfg: DictConfig) -> bool:
    """Write down that a run goes on with a config; False if it is finished.

    Raises:
        UserError: a config that doesn't go on with what was learned.
    """
    found = changes(run, cfg)
    if run.summary_file.exists():
        if not any(_is_raised(run.config, cfg, key) for key in LIMITS):
            return False
        run.summary_file.unlink()
    if other := [note for key, note in found.items() if shapes_learning(key)]:
        warn(f"{', '.join(other)}: from here on this is no longer the same run")
    if free := [note for key, note in found.items() if not shapes_learning(key)]:
        say(f"goes on with {', '.join(free)}")
    if found:
        run.write_config(resolved(cfg))
    run.note_resumption([*found])
    return True


def _is_raised(before: DictConfig, after: DictConfig, key: str) -> bool:
    old, new = OmegaConf.select(before, key), OmegaConf.select(after, key)
    return old is not None and (new is None or new > old)


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
        words = [f"{key}={_word(value)}" for key, value in missing.items()]
        raise UserError(
            f"{run.config_file} is of an older version and lacks {', '.join(missing)}: "
            f"add to the command {' '.join(words)}"
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
    choices = [dict(_leaves(_plain(_composed(line)[group]))) for line in lines]
    chosen = dict(_leaves(_plain(_composed(override.input_line or "")[group])))
    owned = {key for choice in choices for key in choice}
    own = dict(_leaves(_plain(cfg[group])))
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
    plain = _plain(cfg)
    if isinstance(plain, dict):
        if plain.get("_target_"):
            yield place, plain
        for key, value in plain.items():
            yield from _parts(value, f"{place}.{key}" if place else str(key))


def changes(run: Run, cfg: DictConfig) -> dict[str, str]:
    """Keys whose values differ from the run's config, with a note of both values.

    Raises:
        UserError: one that would not go on with what was learned.
    """
    before = dict(_leaves(_plain(run.config)))
    after = dict(_leaves(_plain(resolved(cfg))))
    keys = [k for k in {**before, **after} if before.get(k) != after.get(k)]
    for key in keys:
        if key in before and _is_in(key, FIXED) and not _is_in(key, FREE):
            raise UserError(
                f"{run.shown} has {key}={_word(before[key])}, and can't go on with "
                f"{_word(after.get(key))}: leave it as it was, or start a new run"
            )
    return {k: f"{k} {_word(before.get(k))} -> {_word(after.get(k))}" for k in keys}


def shapes_learning(key: str) -> bool:
    """True if a run that goes on with another value is another run."""
    return not _is_in(key, FREE) or _is_in(key, NOT_FREE)


def newest_unfinished(cfg: DictConfig) -> Run | None:
    """The newest run under runs/ of the same config that isn't finished and that nobody trains."""
    wanted = _plain(resolved(cfg))
    found = [Run(file.parent.absolute()) for file in Path("runs").rglob("run.json")]
    unfinished = [run for run in found if run.is_unfinished and run.config_file.is_file()]
    for run in sorted(unfinished, key=lambda r: r.identity["created"], reverse=True):
        if _plain(run.config) == wanted and not run.is_locked:
            return run
    return None


def _plain(cfg: Any) -> Any:
    """Containers of Python, interpolations as they are written."""
    return OmegaConf.to_container(cfg) if OmegaConf.is_config(cfg) else cfg


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inside in value.items():
            yield from _leaves(inside, f"{place}.{key}" if place else str(key))
    elif value != {}:
        yield place, value


def _is_in(key: str, places: tuple[str, ...]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def _word(value: Any) -> str:
    """A value as it is typed on the command line."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()
