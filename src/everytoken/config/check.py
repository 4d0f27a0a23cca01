"""The command line as a whole, checked before Hydra makes a directory or calls anything.

All jobs of a sweep are checked before the first of them starts.
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import NoReturn

from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from everytoken.config.composing import composed
from everytoken.config.hydra_internals import argument_parser
from everytoken.config.keys import check_keys, check_read, conf_dir
from everytoken.config.literal import leaves, literal
from everytoken.config.moved import moved_key, up_to_date
from everytoken.config.parts import check_code
from everytoken.config.places import check_no_list, place
from everytoken.config.secrets import check_config, check_overrides, settled
from everytoken.config.trust import (
    check_data,
    check_environment,
    check_hydra,
    check_targets,
    check_whole,
    named_in,
    own_names,
    typed_names,
)
from everytoken.config.words import check_choices, parse, understood
from everytoken.errors import UserError
from everytoken.runtime.console import LEVELS, set_level


@dataclass(frozen=True)
class Command:
    """A command line as it was typed."""

    config_name: str
    """The primary config, conf/<config_name>.yaml or that of --config-name."""
    folder: Path
    """Of YAML files: --config-dir, or conf/."""
    overrides: list[str]
    """KEY=VALUE and GROUP=CHOICE."""
    trusted: frozenset[str]
    """`_target_`s that are the user's own: typed, or choices in a folder that adds to conf/. A
    folder with a whole config, as a run's, may be anybody's."""
    asks: bool
    """True if Hydra is only asked for something: --help, --cfg."""
    sweeps: bool
    """True if it may be several jobs."""

    @property
    def whole(self) -> Path | None:
        """The file of a whole config that isn't of conf/; None if there is none."""
        primary = (self.folder / self.config_name).with_suffix(".yaml")
        return primary if self.folder != conf_dir() and primary.is_file() else None

    @property
    def adds_folder(self) -> bool:
        """True if --config-dir adds choices to those of conf/."""
        return self.folder != conf_dir() and self.whole is None


def read_command(config_name: str) -> Command:
    """The command line of this process, which is put in the order that Hydra reads: options first.

    Args:
        config_name: the primary config, conf/<config_name>.yaml.

    Raises:
        UserError: an option that doesn't exist or doesn't work here, a secret.
    """
    parser = argument_parser()
    parser.error = _refuse
    arguments, rest = parser.parse_known_args()
    # argparse takes positional arguments from one place only; the others are left over.
    overrides = [*arguments.overrides, *(word for word in rest if not word.startswith("-"))]
    unknown = [word for word in rest if word.startswith("-")]
    check_overrides([*overrides, *unknown])
    if unknown:
        raise UserError(f"unknown option {unknown[0]}: see --help; settings are key=value")
    if arguments.config_path or arguments.experimental_rerun:
        raise UserError("--config-path and --experimental-rerun don't work here: use --config-dir")
    folder = Path(arguments.config_dir or conf_dir()).absolute()
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give one with YAML files as --config-dir")
    options = sys.argv[1:]
    for override in overrides:
        options.remove(override)
    takes_runs = config_name in ("eval", "generate", "compare")
    overrides = list(map(moved_key, understood(overrides, takes_runs)))
    sys.argv[1:] = [*options, *overrides]
    name = arguments.config_name or config_name
    if Path(name).name != name:
        raise UserError(
            f"--config-name={name} is a path: give --config-dir FOLDER --config-name NAME"
        )
    command = Command(
        config_name=name,
        folder=folder,
        overrides=overrides,
        trusted=typed_names(overrides),
        asks=any((arguments.help, arguments.hydra_help, arguments.cfg, arguments.info)),
        sweeps=_sweeps(arguments, overrides),
    )
    more = [named_in(folder)] if command.whole is None else [own_names(command.whole)]
    more += [own_names(path / "config.yaml") for path in _continued(overrides)]
    return replace(command, trusted=command.trusted.union(*more))


def check_command(
    command: Command, default: str, overrides: list[str], check: Callable[[DictConfig], None]
) -> tuple[DictConfig, DictConfig] | None:
    """Check every job that a command line asks for.

    Args:
        command: as it was typed.
        default: the primary config under conf/.
        overrides: of all jobs: the typed ones, or more.
        check: of a job's config.

    Returns:
        The config of the one job, as it was composed and as it was checked; None for a sweep.

    Raises:
        UserError: what is wrong, and what to do.
        HydraException, OmegaConfBaseException: what Hydra can't read.
    """
    found = None
    check_choices(overrides, {conf_dir(), command.folder})
    if command.whole is not None:
        check_whole(command.whole)
    for job in _jobs(command, overrides):
        cfg = composed(command.folder, command.config_name, job)
        if command.folder != conf_dir():
            ours = composed(conf_dir(), default, _of_hydra(job))
            check_hydra(cfg, ours, str(command.folder))
        if not cfg.hydra.run.dir:
            raise UserError("hydra.run.dir is empty: give the path of a new directory")
        check_directory(overrides, sweeps=command.sweeps or cfg.hydra.mode == RunMode.MULTIRUN)
        found = cfg, _check_composed(cfg, check, command)
    return None if command.sweeps or (found and found[0].hydra.mode == RunMode.MULTIRUN) else found


def checked(name: str, overrides: list[str], check: Callable[[DictConfig], None]) -> DictConfig:
    """The config of a command that is given in Python, refused as if it had been typed.

    Args:
        name: the primary config, conf/<name>.yaml.
        overrides: KEY=VALUE and GROUP=CHOICE.
        check: of its values.

    Raises:
        UserError, HydraException, OmegaConfBaseException: as `check_command`.
    """
    check_overrides(overrides)
    overrides = list(map(moved_key, overrides))
    command = Command(name, conf_dir(), overrides, typed_names(overrides), asks=False, sweeps=False)
    return _check_composed(composed(conf_dir(), name, overrides), check, command)


def _check_composed(
    cfg: DictConfig, check: Callable[[DictConfig], None], command: Command
) -> DictConfig:
    HydraConfig.instance().set_config(cfg)
    cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    OmegaConf.set_struct(cfg, True)
    with initialize_config_dir(str(command.folder), version_base="1.3"):
        return check_job(cfg, check, command)


def check_job(cfg: DictConfig, check: Callable[[DictConfig], None], command: Command) -> DictConfig:
    """Check the config of one job, of which Hydra knows the rest.

    Args:
        cfg: the config as it was composed.
        check: of its values.
        command: as it was typed.

    Returns:
        What was checked: its interpolations were resolved, once, before.

    Raises:
        UserError: what is wrong, and what to do.
    """
    cfg, at = up_to_date(cfg), partial(place, folder=command.folder)
    check_config(cfg)
    check_no_list(command.folder)
    if command.whole is not None:
        check_data(cfg, str(command.whole))
        check_environment(cfg, str(command.whole), command.trusted)
    elif not cfg.get("resume"):  # values of a run that goes on are written out
        check_read(cfg, at)
    check_missing(cfg)
    cfg = settled(cfg)
    check_code(cfg, command.folder)
    check_targets(cfg, "this config", command.trusted)
    if cfg.log_level not in LEVELS:
        raise UserError(f"log_level must be one of {', '.join(LEVELS)}, got {cfg.log_level!r}")
    set_level(cfg.log_level)  # what is imported from here on may be heard
    check_keys(cfg, at)
    check(cfg)
    return cfg


def check_directory(overrides: list[str], *, sweeps: bool) -> None:
    """Refuse the directory of a run where it is a sweep that is made, and the other way round.

    Raises:
        UserError: with the key of the other.
    """
    other, key = ("run", "sweep") if sweeps else ("sweep", "run")
    why = "each job has a folder of its own in the sweep's" if sweeps else "this is one run"
    for override in parse(overrides):
        if override.key_or_group == f"hydra.{other}.dir":
            raise UserError(
                f"{override.input_line} would change nothing, since {why}: give "
                f"hydra.{key}.dir={literal(str(override.value()))}"
            )


def check_missing(cfg: DictConfig) -> None:
    """Refuse a config some of whose values must be given, and aren't.

    Raises:
        UserError: with all of them.
    """
    values = OmegaConf.to_container(cfg, resolve=False)
    if missing := [place for place, value in leaves(values) if value == "???" and "." in place]:
        group = missing[0].partition(".")[0]
        choice = HydraConfig.get().runtime.choices.get(group) if HydraConfig.initialized() else None
        who, where = (f"{group}={choice}", f"{group}/{choice}.yaml") if choice else (group, "")
        give = " ".join(f"{key}=VALUE" for key in missing)
        raise UserError(f"{who} needs {' and '.join(missing)}: give {give}, see conf/{where}")


def _continued(overrides: list[str]) -> list[Path]:
    """The run directories that a command goes on with."""
    named = [override for override in parse(overrides) if override.key_or_group == "resume"]
    return [Path(str(o.value())) for o in named if not o.is_sweep_override()]


def _sweeps(arguments: Namespace, overrides: list[str]) -> bool:
    return arguments.multirun or any("sweep=" in override for override in overrides)


def _jobs(command: Command, overrides: list[str]) -> Iterable[list[str]]:
    """The overrides of each job; none of a sweep whose jobs are not known beforehand."""
    if not command.sweeps:
        return [overrides]
    choices: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            return []
    return map(list, product(*choices.values()))


def _of_hydra(overrides: Iterable[str]) -> list[str]:
    groups = ("hydra", "launcher=", "sweep=")
    return [line for line in overrides if line.lstrip("+~").startswith(groups)]


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}: see --help")
