"""Jobs of a sweep: one process makes them one after the other, and each has a name of its own."""

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from everytoken.config.check import Command
from everytoken.config.keys import MOST_BYTES, typed

GROUP = "WANDB_RUN_GROUP"
"""W&B's own variable, which goes before the sweep's name."""

LOCAL = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


@dataclass(frozen=True)
class Job:
    """One job of a sweep."""

    number: int
    path: Path
    """Hydra's directory of it."""
    overrides: list[str]
    """Of this job."""

    @classmethod
    def current(cls) -> "Job | None":
        """The job of a sweep that this process is making; None if it makes one run, or if each job
        has a process of its own, as SLURM gives them."""
        hydra = HydraConfig.get()
        if hydra.mode != RunMode.MULTIRUN or hydra.launcher._target_ != LOCAL:
            return None
        return cls(hydra.job.num, Path(hydra.runtime.output_dir), typed("task"))


def name_job(cfg: DictConfig, command: Command) -> None:
    """Add to the name of a job of a sweep what tells it from the others; group them in W&B."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return
    keys = swept(command)
    found = label(typed("task"), [key for key in keys if key != "name"])
    name = called(str(cfg.name), found)
    with open_dict(cfg):
        cfg.name = name if len(name.encode()) <= MOST_BYTES else f"{cfg.name}-{hydra.job.num}"
        wandb = OmegaConf.select(cfg, "logger.wandb")
        if wandb is not None and wandb.get("group") is None and not os.environ.get(GROUP):
            wandb.group = Path(hydra.sweep.dir).name


def called(name: str, found: str) -> str:
    """A run's name with a `label` behind it."""
    suffix = re.sub(r"[^\w.+=,-]+", "_", found.replace(" ", ","))
    return f"{name}-{suffix}" if suffix else name


def swept(command: Command) -> list[str]:
    """Keys that have several values in a sweep: typed, or of a prepared one (sweep=NAME)."""
    parsed = OverridesParser.create().parse_overrides(command.overrides)
    prepared = HydraConfig.get().sweeper.get("params") or {}
    keys = [override.key_or_group for override in parsed if override.is_sweep_override()]
    return [*dict.fromkeys([*map(str, prepared), *keys])]


def label(overrides: Iterable[str], keys: Collection[str]) -> str:
    """What some keys are set to, as short as they can be told apart: "lr=0.001 seed=2"."""
    lasts = [key.rpartition(".")[2] for key in keys]
    values = {
        key.lstrip("+~"): value.strip("'\"")
        for key, _, value in (o.partition("=") for o in overrides)
    }
    short = {
        key: last if lasts.count(last) == 1 else key for key, last in zip(keys, lasts, strict=True)
    }
    return " ".join(f"{short[key]}={values[key]}" for key in keys if key in values)


def differing(jobs: Iterable[Iterable[str]]) -> list[str]:
    """Keys that aren't set to the same in all lists of overrides."""
    found = [dict(o.lstrip("+~").split("=", 1) for o in job if "=" in o) for job in jobs]
    keys = dict.fromkeys(key for job in found for key in job)
    return [key for key in keys if len({job.get(key) for job in found}) > 1]
