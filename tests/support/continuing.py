"""Runs that go on, up to their config."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from everytoken.config.check import Command
from everytoken.config.composing import composed
from everytoken.config.keys import conf_dir
from everytoken.config.secrets import resolved
from everytoken.config.trust import typed_names
from everytoken.run.directory import Run
from everytoken.run.overrides import all_overrides


def command(*overrides: str, folder: Path | None = None) -> Command:
    """`python -m train OVERRIDES`, maybe with --config-dir."""
    return Command(
        config_name="train",
        folder=folder or conf_dir(),
        overrides=list(overrides),
        trusted=typed_names(overrides),
        asks=False,
        sweeps=False,
    )


def new_run(path: Path, *overrides: str) -> Run:
    """A run as `python -m train OVERRIDES` makes it; to be called inside Hydra or outside."""
    cfg = composed(conf_dir(), "train", overrides)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    return Run.create(path, cfg, {"overrides": list(overrides)})


def continued_config(run: Run, *overrides: str) -> DictConfig:
    """What `python -m train resume=RUN OVERRIDES` composes, resolved."""
    given = command(f"resume='{run.path}'", *overrides)
    cfg = composed(given.folder, "train", all_overrides(given))
    OmegaConf.set_struct(cfg, False)
    return resolved(cfg)
