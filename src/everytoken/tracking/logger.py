"""The tracker of choice: Weights & Biases or TensorBoard.

`python -m everytoken.tracking RUN` uploads to Weights & Biases what it lacks of a run.
"""

import json
import netrc
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import wandb
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import OmegaConf

from everytoken.errors import UserError, one_line
from everytoken.run.directory import Run
from everytoken.runtime.console import log
from everytoken.runtime.rank import global_rank
from everytoken.tracking.wandb_files import set_empty_aside
from everytoken.tracking.wandb_run import Tracker

INIT_SECONDS = 20.0
"""How long the service may take to answer at the start, before the run is recorded offline."""
FINISH_SECONDS = 30.0
"""How long a run may take to upload what is left at the end; the rest waits for `wandb sync`."""
FLUSH_SECONDS = 5.0
"""How often W&B writes to disk what was recorded; what a killed run loses, metrics.csv has."""
DIFF_BYTES = 1_000_000
"""Most of the diff of the code that is uploaded."""


def tensorboard_logger(run: Run) -> TensorBoardLogger:
    """TensorBoard files in the run directory."""
    return TensorBoardLogger(save_dir=run.path, name="tensorboard", version="")


def wandb_logger(
    run: Run,
    project: str,
    entity: str | None,
    group: str | None,
    job_type: str | None,
    tags: list[str],
    notes: str | None,
    mode: str,
    predictions: int,
    save_diff: bool,
    log_checkpoints: str,
    keep_checkpoints: int,
) -> Tracker | None:
    """A tracked run with this run's id, on rank 0. It never stands in the way of training.

    Args:
        run: gives name, id, config, commit and versions.
        project: W&B project.
        entity: W&B team or user; None for the key's default.
        group: W&B group.
        job_type: W&B job type.
        tags: W&B tags.
        notes: W&B notes.
        mode: "online", "offline", or "auto": online if there is a key and a connection.
        predictions: rows of the table at each validation.
        save_diff: True to upload the code's uncommitted changes.
        log_checkpoints: "none", "best" or "all", see `Tracker`.
        keep_checkpoints: versions of the artifact that are kept.

    Returns:
        None on other ranks, with WANDB_MODE=disabled, or if W&B can't even record offline.
    """
    if global_rank() != 0 or os.environ.get("WANDB_MODE") == "disabled":
        return None
    _keep_inside(run)
    set_empty_aside(run.path / "wandb")
    identity = run.identity
    origin = {key: identity[key] for key in ("created", "git_commit", "python", "versions")}
    # What config.yaml says, so what was kept out of it stays out of here too.
    config = {**_plain(run), "run": origin}

    def record(mode: Literal["online", "offline"]) -> Tracker:
        with _without_arguments():
            experiment = wandb.init(
                mode=mode,
                dir=run.path,
                id=identity["id"],
                name=identity["name"],
                project=project,
                entity=entity,
                group=group,
                job_type=job_type,
                tags=tags,
                notes=notes,
                config=config,
                allow_val_change=True,  # a continued run may have other settings
                resume="allow",
                reinit="finish_previous",  # jobs of a sweep share a process
                settings=wandb.Settings(
                    console="off",
                    init_timeout=INIT_SECONDS,
                    finish_timeout=FINISH_SECONDS / 2,
                    finish_timeout_raises=True,
                    x_transaction_log_flush_interval=FLUSH_SECONDS,
                ),
            )
        if save_diff:
            _save_diff(experiment)
        return Tracker(
            experiment,
            run,
            predictions=predictions,
            log_checkpoints=log_checkpoints,
            keep_checkpoints=keep_checkpoints,
            finish_seconds=FINISH_SECONDS,
        )

    reason = None if mode == "online" else _why_offline(mode)
    if reason is None:
        try:
            online = record("online")
            log(f"Weights & Biases: {online.experiment.url}")
            return online
        except Exception as error:  # whatever the service does, training goes on
            reason = f"it can't be reached ({one_line(error, 200)})"
            wandb.teardown()  # or the id would be in use
    try:
        offline = record("offline")
    except Exception as error:
        log(f"Weights & Biases: recording nothing ({one_line(error, 200)})")
        return None
    log(f"Weights & Biases: recording offline, as {reason}\n  upload with: {offline.upload}")
    return offline


def _plain(run: Run) -> dict[str, Any]:
    return dict(OmegaConf.to_container(run.config))  # pyright: ignore


_ours: dict[str, str] = {}
"""Environment variables that were set here, for the run before in this process."""


def _keep_inside(run: Run) -> None:
    """Have W&B keep its copies of files in the run directory, and neither print nor phone home."""
    folder = str(run.path / "wandb" / "data")
    chosen = {"WANDB_DATA_DIR": folder, "WANDB_CACHE_DIR": folder}
    chosen |= {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    for name, value in chosen.items():
        if os.environ.get(name) == _ours.get(name):
            os.environ[name] = _ours[name] = value


@contextmanager
def _without_arguments() -> Iterator[None]:
    """W&B records the command line, in which there may be a secret; the config has the rest."""
    arguments = sys.argv
    sys.argv = arguments[:1]
    try:
        yield
    finally:
        sys.argv = arguments


def _save_diff(experiment: wandb.Run) -> None:
    command = ["git", "-C", str(Path(__file__).parent), "diff", "--no-ext-diff", "HEAD"]
    try:
        diff = subprocess.run(command, capture_output=True, check=True, timeout=10).stdout
        if diff:
            file = Path(experiment.dir) / "diff.patch"
            file.write_bytes(diff[:DIFF_BYTES])
            experiment.save(file, base_path=file.parent, policy="now")
    except (OSError, subprocess.SubprocessError):
        return  # no git, or no room: the commit's name says "+changes" all the same


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


def upload(path: Path) -> Tracker:
    """Upload what the server doesn't have of a run, until the tracker's end.

    Raises:
        UserError: there is no such run, it isn't tracked in W&B, or the service can't be reached.
    """
    run = Run.find(path.resolve())
    settings = {str(key): value for key, value in run.config.logger.items()}
    if settings.pop("_target_") != "everytoken.tracking.wandb_logger":
        raise UserError(f"{path} isn't tracked in Weights & Biases: its logger is another")
    tracker = wandb_logger(run, **{**settings, "mode": "online"})
    if tracker is None or tracker.experiment.offline:
        raise UserError("Weights & Biases can't be reached: try again later")
    tracker.catch_up()
    if run.summary_file.exists():
        tracker.fitting = False
        tracker.log_metrics(json.loads(run.summary_file.read_text(encoding="utf-8")))
    return tracker
