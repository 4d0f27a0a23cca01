"""Where logged values go: metrics.csv always, and the tracker of choice."""

import csv
import netrc
import os
import socket
from argparse import Namespace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import wandb
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from omegaconf import OmegaConf

from everytoken.console import say
from everytoken.launch import global_rank
from everytoken.runs import Run


class MetricsFile(Logger):
    """Writes every logged value to metrics.csv, one line per step and moment.

    Lines are on disk as soon as they are logged, and a file that exists is continued.

    Args:
        run: whose metrics.csv.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.path = run.path / "metrics.csv"

    # ModelCheckpoint saves to save_dir/name/version/checkpoints: the run directory's checkpoints/.
    @property
    def save_dir(self) -> str:
        """The run directory."""
        return str(self.run.path)

    @property
    def name(self) -> str:
        """Nothing."""
        return ""

    @property
    def version(self) -> str:
        """Nothing."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line; columns that are new make the file be written again."""
        row = {"step": step, **{k: v for k, v in metrics.items() if k != "epoch"}}
        columns, rows = self._read()
        if new := [key for key in row if key not in columns]:
            columns += new
            temporary = self.path.with_suffix(".tmp")
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows)
            temporary.replace(self.path)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, columns).writerow(row)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: config.yaml has them."""

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        if not self.path.exists():
            return [], []
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or []), list(reader)


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
