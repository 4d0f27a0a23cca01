"""The command line as a whole, checked before Hydra makes a directory or calls anything.

All jobs of a sweep are checked before the first of them starts.
"""

from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from everytoken.config.keys import check_keys, conf_dir, typed
from everytoken.config.secrets import check_config, check_words
from everytoken.config.trust import check_hydra, check_targets, named_in
from everytoken.errors import UserError
from everytoken.runtime.console import LEVELS, set_level


def check_command(config_name: str, check: Callable[[DictConfig], None]) -> frozenset[str]:
    """Check the command line of this process, and every job that it asks for.

    Args:
        config_name: the primary config, conf/<config_name>.yaml.
        check: of a job's config.

    Returns:
        `_target_`s that are the user's own: choices in a folder that adds to conf/. A folder with a
        whole config, as a run's, may be anybody's.

    Raises:
        UserError: what is wrong, and what to do.
        HydraException, OmegaConfBaseException: what Hydra can't read.
    """
    parser = get_args_parser()
    parser.error = _refuse
    arguments, unknown = parser.parse_known_args()
    check_words([*arguments.overrides, *unknown])
    if unknown:
        raise UserError(f"unknown option {unknown[0]}: see --help; settings are key=value")
    if arguments.config_path or arguments.experimental_rerun:
        raise UserError("--config-path and --experimental-rerun don't work here: use --config-dir")
    folder = Path(arguments.config_dir or conf_dir()).absolute()
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give one with YAML files as --config-dir")
    if any((arguments.help, arguments.hydra_help, arguments.cfg, arguments.info)):
        return frozenset()
    name = arguments.config_name or config_name
    primary = folder / Path(name).with_suffix(".yaml")
    if primary.is_file() and OmegaConf.select(OmegaConf.load(primary), "hydra.searchpath"):
        raise UserError(f"{primary} sets hydra.searchpath: give it on the command line instead")
    own = frozenset() if primary.is_file() else named_in(folder)
    for words in _jobs(arguments):
        cfg = _composed(folder, name, words)
        if folder != conf_dir():
            check_hydra(cfg, _composed(conf_dir(), config_name, _of_hydra(words)), str(folder))
        if not cfg.hydra.run.dir:
            raise UserError("hydra.run.dir is empty: give the path of a new directory")
        HydraConfig.instance().set_config(cfg)
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        OmegaConf.set_struct(cfg, True)
        with initialize_config_dir(str(folder), version_base="1.3"):
            check_job(cfg, check, own)
    return own


def check_job(cfg: DictConfig, check: Callable[[DictConfig], None], own: frozenset[str]) -> None:
    """Check the config of one job, of which Hydra knows the rest.

    Args:
        cfg: the config.
        check: of its values.
        own: what `check_command` returns.

    Raises:
        UserError: what is wrong, and what to do.
    """
    check_config(cfg)
    check_targets(cfg, "this config", [*typed("task"), *own])
    check_keys(cfg)
    if cfg.log_level not in LEVELS:
        raise UserError(f"log_level must be one of {', '.join(LEVELS)}, got {cfg.log_level!r}")
    set_level(cfg.log_level)  # what is imported from here on may be heard
    check(cfg)


def _jobs(arguments: Namespace) -> Iterable[list[str]]:
    """The overrides of each job; none of a sweep whose jobs are not known beforehand."""
    sweeps = arguments.multirun or any("sweep=" in word for word in arguments.overrides)
    if not sweeps:
        return [arguments.overrides]
    overrides = OverridesParser.create().parse_overrides(arguments.overrides)
    if any(word.is_sweep_override() and not word.is_discrete_sweep() for word in overrides):
        return []
    return BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]


def _composed(folder: Path, name: str, words: list[str]) -> DictConfig:
    """A config with Hydra's own part, of the YAMLs in a folder and under conf/."""
    # Hydra looks for the primary config in one folder only.
    home, other = conf_dir(), folder
    if (folder / name).with_suffix(".yaml").is_file():
        home, other = folder, conf_dir()
    search = [] if home == other else [f"hydra.searchpath=['file://{other}']"]
    with initialize_config_dir(str(home), version_base="1.3"):
        return compose(name, [*search, *words], return_hydra_config=True)


def _of_hydra(words: Iterable[str]) -> list[str]:
    groups = ("hydra", "launcher=", "sweep=")
    return [word for word in words if word.lstrip("+~").startswith(groups)]


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}: see --help")
