"""All that reading a command line uses of Hydra which it doesn't document.

Checked with Hydra 1.3. tests/config/test_upstream.py says what another version has changed.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import configure_log
from omegaconf import DictConfig, OmegaConf

CHECK = "_check_help"
"""Python 3.14 looks at the help of each option that is added: Hydra has one whose isn't text."""


def argument_parser() -> ArgumentParser:
    """Hydra's own parser of a command line: `hydra._internal.utils.get_args_parser`.

    What it finds has `overrides`, `multirun`, `config_dir`, `config_name`, `config_path`,
    `experimental_rerun`, `help`, `hydra_help`, `cfg` and `info`.
    """
    check = getattr(ArgumentParser, CHECK, None)
    if check is None:
        return get_args_parser()
    setattr(ArgumentParser, CHECK, lambda *_: None)
    try:
        return get_args_parser()
    finally:
        setattr(ArgumentParser, CHECK, check)


# `hydra.main` reads the command line too, by a name of its own.
vars(sys.modules[hydra.main.__module__])["get_args_parser"] = argument_parser


class Composed(Hydra):
    """`hydra._internal.hydra.Hydra` with a config that is composed already.

    Args:
        cfg: with Hydra's part.
    """

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg.hydra.job.name, GlobalHydra.instance().config_loader())
        OmegaConf.set_readonly(cfg.hydra, False)  # who checked it made it so
        self.cfg = cfg

    def compose_config(self, *args: Any, **kwargs: Any) -> DictConfig:
        """The config; what Hydra logs is set up as it says."""
        configure_log(self.cfg.hydra.hydra_logging, self.cfg.hydra.verbose)
        return self.cfg


def run(cfg: DictConfig, folder: Path, job: Callable[[DictConfig], None]) -> None:
    """Do one job in its directory, as `hydra.main` does, which would compose its config again.

    Args:
        cfg: with Hydra's part.
        folder: of YAML files.
        job: is given the config without Hydra's part.
    """
    with initialize_config_dir(str(folder), version_base="1.3"):
        Composed(cfg).run(cfg.hydra.job.config_name, job, [])
