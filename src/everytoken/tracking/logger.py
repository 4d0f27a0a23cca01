"""The trackers of choice: Weights & Biases, TensorBoard, any logger of Lightning's.

`python -m everytoken.tracking RUN` uploads to Weights & Biases what it lacks of a run.
"""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import wandb
from hydra.utils import get_object
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf

from everytoken.config.trust import check_environment, own_names
from everytoken.errors import UserError, one_line
from everytoken.run.directory import Run
from everytoken.runtime.console import log, warn
from everytoken.runtime.files import check_inside
from everytoken.runtime.world import global_rank
from everytoken.tracking.wandb_environment import keep_inside, overruled, why_offline
from everytoken.tracking.wandb_files import set_empty_aside
from everytoken.tracking.wandb_run import Tracker

INIT_SECONDS = 20.0
"""How long the service may take to answer at the start, before the run is recorded offline."""
FINISH_SECONDS = 30.0
"""How long a run may take to upload what is left at the end; the rest waits for `wandb sync`."""
FLUSH_SECONDS = 5.0
"""How often W&B writes to disk what was recorded; what a killed run loses, metrics.csv has."""
OURS = "everytoken.tracking.wandb_logger"

DIFF_BYTES = 1_000_000
"""Most of the diff of the code that is uploaded."""


def build_logger(
    make: Callable[..., Logger | None], settings: Mapping[str, Any], run: Run
) -> Logger | None:
    """A logger, ours or Lightning's, given what it asks for of its run.

    Ours take the run itself. Another is given the run's directory if it needs one, and then the
    config, for ours have it already.

    Args:
        make: builds it, its settings filled in.
        settings: those, with its `_target_`.
        run: that is going to be logged.

    Returns:
        None for a rank on which nothing is logged.
    """
    parameters = inspect.signature(get_object(settings["_target_"])).parameters
    if "run" in parameters:
        return make(run=run)
    place = parameters.get("save_dir")
    needs_place = place is not None and place.default is place.empty and "save_dir" not in settings
    logger = make(**({"save_dir": run.path} if needs_place else {}))
    if logger is not None:
        logger.log_hyperparams(plain_config(run))
    return logger


def tensorboard_logger(run: Run) -> Logger:
    """TensorBoard files in the run directory."""
    from everytoken.tracking.tensorboard import TensorBoard  # only here: an extra may be missing

    check_inside(run.path / "tensorboard", run.path)
    return TensorBoard(run)


def wandb_logger(
    run: Run,
    project: str,
    entity: str | None,
    group: str | None,
    job_type: str | None,
    tags: list[str] | str | None,
    notes: str | None,
    mode: str,
    predictions: int,
    save_diff: bool,
    log_checkpoints: str,
    keep_checkpoints: int,
    name: str | None = None,
    api_key: str | None = None,
) -> Tracker | None:
    """A tracked run with this run's id, on rank 0. It never stands in the way of training.

    Args:
        run: gives name, id, config, commit and versions.
        project: W&B project.
        entity: W&B team or user; None for the key's default.
        group: W&B group; None for that of the environment.
        job_type: W&B job type.
        tags: W&B tags; a text has commas between them.
        notes: W&B notes.
        mode: "online", "offline", or "auto": online if there is a key and a connection.
        predictions: rows of the table at each validation.
        save_diff: True to upload the code's uncommitted changes.
        log_checkpoints: "none", "best" or "all", see `Tracker`.
        keep_checkpoints: versions of the artifact that are kept.
        name: W&B name; None for the run's.
        api_key: None for that of the environment or of `wandb login`.

    Returns:
        None on other ranks, with WANDB_MODE=disabled, or if W&B can't even record offline.
    """
    if global_rank() != 0 or os.environ.get("WANDB_MODE") == "disabled":
        return None
    check_inside(run.path / "wandb", run.path)
    keep_inside(run.path)
    set_empty_aside(run.path / "wandb")
    identity = run.identity
    origin = {key: identity.get(key) for key in ("created", "git_commit", "python", "versions")}
    # What config.yaml says, so what was kept out of it stays out of here too.
    config = {**plain_config(run), "run": origin}
    words = tags.split(",") if isinstance(tags, str) else list(tags or [])

    def record(mode: Literal["online", "offline"]) -> Tracker:
        with _without_arguments():
            experiment = wandb.init(
                mode=mode,
                dir=run.path,
                id=identity["id"],
                name=name or identity["name"],
                project=project,
                entity=entity,
                group=group,
                job_type=job_type,
                tags=[word.strip() for word in words if word.strip()],
                notes=notes,
                config=config,
                allow_val_change=True,  # a continued run may have other settings
                resume="allow",
                reinit="finish_previous",  # jobs of a sweep share a process
                settings=wandb.Settings(
                    api_key=api_key,
                    console="off",
                    init_timeout=INIT_SECONDS,
                    finish_timeout=FINISH_SECONDS / 2,
                    finish_timeout_raises=True,
                    x_transaction_log_flush_interval=FLUSH_SECONDS,
                ),
            )
        for sentence in overruled(experiment.settings):
            warn(sentence)
        if save_diff and not (experiment.settings.disable_code or experiment.settings.disable_git):
            _save_diff(experiment)
        return Tracker(
            experiment,
            run,
            predictions=predictions,
            log_checkpoints=log_checkpoints,
            keep_checkpoints=keep_checkpoints,
            finish_seconds=FINISH_SECONDS,
        )

    reason = None if mode == "online" else why_offline(mode, api_key)
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


def plain_config(run: Run) -> dict[str, Any]:
    """What config.yaml says: what the environment gives stays a reference."""
    return dict(OmegaConf.to_container(run.config))  # pyright: ignore


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


def upload(path: Path) -> Tracker:
    """Upload what the server doesn't have of a run, until the tracker's end.

    Raises:
        UserError: there is no such run, it isn't tracked in W&B, or the service can't be reached.
    """
    run = Run.find(path.resolve())
    cfg, names = run.config, own_names(run.config_file)
    check_environment(cfg, str(run.config_file), names, skip={*map(str, cfg)} - {"logger"})
    parts = [part for part in cfg.logger.values() if part]
    found = [dict(part) for part in parts if part["_target_"] == OURS]
    if not found:
        raise UserError(f"{path} isn't tracked in Weights & Biases: its logger is another")
    settings = {str(key): value for key, value in found[0].items() if key != "_target_"}
    tracker = wandb_logger(run, **{**settings, "mode": "online"})
    if tracker is None or tracker.experiment.offline:
        raise UserError("Weights & Biases can't be reached: try again later")
    tracker.catch_up()
    if (summary := run.summary) is not None:
        tracker.fitting = False
        tracker.log_metrics(summary)
    return tracker
