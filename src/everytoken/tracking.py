"""The tracker of choice: Weights & Biases or TensorBoard."""

import netrc
import os
import socket
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import wandb
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from omegaconf import OmegaConf

from everytoken.console import say
from everytoken.launch import global_rank
from everytoken.runs import Run


def tensorboard_logger(run: Run) -> TensorBoardLogger:
    """TensorBoard files in the run directory."""
    return TensorBoardLogger(save_dir=run.path, name="tensorboard", version="")


def wandb_logger(
    run: Run,
    project: str,
    entity: str | None,
    group: str | None,
    tags: list[str],
    notes: str | None,
    mode: str,
) -> WandbLogger | None:
    """A tracked run with this run's id, on rank 0. It never stands in the way of training.

    Args:
        run: gives name, id, config, commit and versions.
        project: W&B project.
        entity: W&B team or user; None for the key's default.
        group: W&B group.
        tags: W&B tags.
        notes: W&B notes.
        mode: "online", "offline", or "auto": online if there is a key and a connection.

    Returns:
        None on other ranks, with WANDB_MODE=disabled, or if W&B can't even record offline.
    """
    if global_rank() != 0 or os.environ.get("WANDB_MODE") == "disabled":
        return None
    identity = run.identity
    origin = {key: identity[key] for key in ("created", "git_commit", "python", "versions")}

    def record(mode: Literal["online", "offline"]) -> WandbLogger:
        experiment = wandb.init(
            mode=mode,
            dir=run.path,
            id=identity["id"],
            name=identity["name"],
            project=project,
            entity=entity,
            group=group,
            tags=tags,
            notes=notes,
            config={"config": OmegaConf.to_container(run.config), "run": origin},
            reinit="finish_previous",  # jobs of a sweep share a process
            settings=wandb.Settings(console="off", init_timeout=30, silent=True),
        )
        experiment.define_metric("trainer/global_step")
        experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return WandbLogger(experiment=experiment)

    reason = None if mode == "online" else _why_offline(mode)
    if reason is None:
        try:
            online = record("online")
            say(f"Weights & Biases: {online.experiment.url}")
            return online
        except Exception as error:  # whatever the service does, training goes on
            reason = f"it can't be reached ({' '.join(str(error).split())[:200]})"
    try:
        offline = record("offline")
    except Exception as error:
        say(f"Weights & Biases: recording nothing ({' '.join(str(error).split())[:200]})")
        return None
    say(
        f"Weights & Biases: recording offline, as {reason}\n"
        f"  upload with: wandb sync {run.shown}/wandb/offline-run-*"
    )
    return offline


def _why_offline(mode: str) -> str | None:
    if mode == "offline" or os.environ.get("WANDB_MODE") == "offline":
        return "asked to"
    address = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    host = address.hostname or ""
    if not os.environ.get("WANDB_API_KEY") and not _has_netrc_entry(host):
        return "there is no key (set one with: wandb login)"
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy")):
        return None  # the proxy may reach what this machine can't
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        return f"{host} can't be reached ({error})"
    return None


def _has_netrc_entry(host: str) -> bool:
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
