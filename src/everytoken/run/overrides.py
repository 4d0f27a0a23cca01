"""The overrides that a run was started with, composed again under those that continue it.

Hydra does the composing, and lets later overrides win. What conf/ says differently today than when
the run was started, and what a run of an older version didn't record, is pinned to the run's own
values, so that no default of today replaces what the run was started with.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from everytoken.config.check import Command
from everytoken.config.composing import composed
from everytoken.config.keys import conf_dir
from everytoken.config.literal import leaves, literal, plain
from everytoken.config.moved import moved_key
from everytoken.config.secrets import NOT_OF_RUN, resolved
from everytoken.config.trust import is_computed
from everytoken.config.words import parse
from everytoken.errors import UserError
from everytoken.run.directory import Run, shown
from everytoken.run.implied import implied
from everytoken.run.reading import SPLITS, read_anew

AUTO = "auto"

NOT_HERE = ("experiment", "debug", "sweep", "launcher", "hydra")
"""Groups that change much at once, or how jobs are run: not for a run that goes on."""


def resumed_run(command: Command) -> Run | None:
    """The run that a command continues by its directory; None if there is none.

    Raises:
        UserError: a directory that is no run's, or whose config calls somebody else's code.
    """
    named = [o for o in parse(command.overrides) if o.key_or_group == "resume"]
    if command.asks or not named or named[-1].is_sweep_override():
        return None
    if (value := named[-1].value()) in (None, AUTO):
        return None
    if (place := Path(str(value)).absolute()).suffix == ".ckpt":
        raise UserError(
            f"resume={value} names a checkpoint, and a run goes on from its last: give its "
            f"directory, resume={shown(place.parent.parent)}; a new run begins with its weights by "
            f"init_from={value}"
        )
    return Run.open_whole(place, command.trusted)


def all_overrides(command: Command) -> list[str]:
    """The overrides of a command, after those of the run that it continues by its directory.

    Raises:
        UserError: no such run; an override that a run can't go on with.
    """
    run, parsed = resumed_run(command), parse(command.overrides)
    if run is None:
        return with_implied(command)
    for override in parsed:
        key = override.key_or_group
        if key == "init_from" and override.value() is not None:
            raise UserError(
                f"init_from={override.get_value_string()} begins a new run with the weights of "
                f"another, and resume={run.shown} goes on with one, with the weights that it has: "
                "give one of the two"
            )
        if key.startswith("hydra.") or key in NOT_HERE:
            raise UserError(
                f"resume=DIR takes keys of its config and groups such as trainer, not {key}: leave "
                "it out"
            )
        if override.is_sweep_override():
            raise UserError(f"{override.input_line} has several values, and a run goes on with one")
    if command.sweeps:
        raise UserError("resume=DIR continues one run: leave out --multirun")
    place = f"hydra.run.dir={literal(str(run.path))}"
    before = unhiding(earlier(run, command), command)
    typed = [*command.overrides, *implied(command, parsed, before)]
    lines = applicable([*before, *typed], command)
    if any(re.match(r"[+~]*data[.=]", line) for line in typed):
        other = resolved(composed(command.folder, "train", lines), strict=False)
        lines += read_anew(plain(run.config.data), plain(other.data), typed, command, SPLITS)
    return [*lines, place]


def with_implied(command: Command) -> list[str]:
    """The overrides of a command that continues no run, with what they imply."""
    return [*command.overrides, *implied(command, parse(command.overrides))]


def earlier(run: Run, command: Command) -> list[str]:
    """Overrides that compose to a run's config: as recorded, then what these leave different."""
    recorded = recorded_overrides(run, command)
    try:
        cfg = composed(command.folder, "train", recorded)
    except HydraException as error:
        if folder := run.identity.get("config_dir"):
            raise UserError(
                f"{run.shown} was started with --config-dir {folder}: add it"
            ) from error
        raise
    own, today = plain(run.config), plain(resolved(cfg, strict=False))
    values = dict(leaves(today))
    pins = {k: f"++{k}={literal(v)}" for k, v in leaves(own) if k not in values or values[k] != v}
    pins |= {key: f"~{key}" for key in _superfluous(today, own)}
    if pins:
        groups = {o.key_or_group for o in parse(command.overrides)}
        owned = {key for group in groups for key in _owned(command, group)}
        pins = {key: pin for key, pin in pins.items() if not _is_inside(key, owned)}
    return [*recorded, *pins.values()]


def unhiding(before: list[str], command: Command) -> list[str]:
    """Overrides of a run without those of its corpus that would hide settings which are typed now.

    `data.corpus.test`, where conf/ has `${data.test_path}`, and that is typed, say.
    """
    typed = {o.key_or_group for o in parse(command.overrides)}
    ours = [o for o in parse(before) if o.key_or_group.startswith("data.corpus.")]
    if not ours or not any(key.startswith("data.") for key in typed):
        return before
    rest = [line for line in before if line not in {o.input_line for o in ours}]
    usual = dict(leaves(OmegaConf.to_container(composed(command.folder, "train", rest))))
    hiding = {
        override.input_line
        for override in ours
        if any(f"${{{key}}}" in str(usual.get(override.key_or_group)) for key in typed)
    }
    return [line for line in before if line not in hiding]


def recorded_overrides(run: Run, command: Command) -> list[str]:
    """What run.json says that a run was started with, and went on with.

    Of a run of an older version, which recorded nothing, the choices that come closest to it.

    Raises:
        UserError: something that no run records.
    """
    recorded = run.identity.get("overrides")
    if recorded is None:
        return _closest(run, command)
    parsed = [o for o in parse([*map(moved_key, recorded)]) if not _computes(o)]
    for override in parsed:
        of_hydra = override.key_or_group.startswith("hydra") or override.package is not None
        if of_hydra or override.is_sweep_override():
            raise UserError(
                f"{run.identity_file} records {override.input_line}, which no run does: take it out"
            )
    kept = [o.input_line or "" for o in parsed if o.key_or_group not in NOT_OF_RUN]
    return applicable(kept, command)


def applicable(overrides: list[str], command: Command) -> list[str]:
    """Overrides without those of a choice that a later choice of its group replaces.

    What it has too, and what was added beside it (a callback, say), stays.
    """
    kept: list[Override] = []
    for new in parse(overrides):
        group, line = new.key_or_group, new.input_line
        if any(o.key_or_group.startswith(f"{group}.") for o in kept) and _choices(command, group):
            chosen = [o.input_line for o in kept if o.key_or_group == group]
            before, after = (_values(command.folder, group, one) for one in (chosen[-1:], [line]))
            kept = [o for o in kept if not _is_replaced(o, before, after)]
        kept.append(new)
    return [o.input_line or "" for o in kept] if kept else overrides


def _values(folder: Path, group: str, overrides: list[str | None]) -> dict[str, Any]:
    """Of a group, by key; of places inside of it, too."""
    cfg = composed(folder, "train", filter(None, overrides))
    values = dict(leaves(plain(cfg.get(group)), group))
    return {place: None for key in values for place in places(key)} | values


def _is_replaced(override: Override, before: dict[str, Any], after: dict[str, Any]) -> bool:
    """True if what it sets, or the part that it adds an argument to, is of the choice before."""
    for place in places(override.key_or_group):
        code = f"{place}._target_"
        if place in before and place not in after:
            return True
        added = override.is_add() or override.is_force_add()
        if added and code in before and before[code] != after.get(code):
            return True
    return False


def places(key: str) -> Iterator[str]:
    """A dotted key and what it is inside of."""
    while key:
        yield key
        key = key.rpartition(".")[0]


def _computes(override: Override) -> bool:
    """True if its value depends on more than the config and the environment."""
    return is_computed(override.input_line or "")


def _superfluous(today: dict[Any, Any], own: dict[Any, Any], place: str = "") -> Iterator[str]:
    """Parts of today's config, and arguments of other parts, that the run's own doesn't have.

    Arguments that it lacks of the very same part are of a newer version, and stay.
    """
    is_other = today.get("_target_") != own.get("_target_")
    for key, value in today.items():
        if key not in own:
            # Hydra can't delete what is null, which does nothing either.
            if value is not None and (is_other or _is_part(value)):
                yield f"{place}{key}"
        elif isinstance(value, dict) and isinstance(own[key], dict):
            yield from _superfluous(value, own[key], f"{place}{key}.")


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


def _closest(run: Run, command: Command) -> list[str]:
    """For each group the choice with the keys, and then the values, of a run's config."""
    own, found = plain(run.config), []
    for group in own:
        wanted = dict(leaves(own[group], group))

        def distance(name: str, group: str = group, wanted: dict[str, Any] = wanted) -> Any:
            there = _choices(command, group)[name]
            values = sum(there[key] != wanted.get(key) for key in there)
            return len(there.keys() ^ wanted.keys()), values

        if names := sorted(_choices(command, group)):
            found.append(f"{group}={min(names, key=distance)}")
    return found


def _owned(command: Command, group: str) -> set[str]:
    """Keys that the choices of a group differ in: to choose one decides them."""
    choices = _choices(command, group).values()
    keys = {key for choice in choices for key in choice}
    missing = object()
    return {key for key in keys if len({repr(c.get(key, missing)) for c in choices}) > 1}


def _choices(command: Command, group: str) -> dict[str, dict[str, Any]]:
    """The values of each choice of a group, by name; none if it is no group."""
    folders = {folder / group for folder in (conf_dir(), command.folder)}
    names = {file.stem for folder in folders for file in folder.glob("*.yaml")}
    return {name: _choice(command.folder, group, name) for name in names}


@cache
def _choice(folder: Path, group: str, name: str) -> dict[str, Any]:
    return dict(leaves(plain(composed(folder, "train", [f"{group}={name}"])[group]), group))


def _is_inside(key: str, places: set[str]) -> bool:
    return any(key == place or place.startswith(f"{key}.") for place in places)
