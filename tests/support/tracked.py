"""Runs tracked in W&B, offline, and what its files say of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import wandb

from everytoken.run.directory import Run
from everytoken.run.metrics_file import MetricsFile
from everytoken.tracking import logger as tracking
from everytoken.tracking.wandb_files import records
from everytoken.tracking.wandb_run import Tracker

SETTINGS: dict[str, Any] = {
    "project": "p",
    "entity": None,
    "group": "g",
    "job_type": "train",
    "tags": ["a"],
    "notes": "why",
    "mode": "offline",
    "predictions": 4,
    "save_diff": False,
    "log_checkpoints": "none",
    "keep_checkpoints": 2,
}


def tracker_of(run: Run, **settings: Any) -> Tracker:
    tracker = tracking.wandb_logger(run, **{**SETTINGS, **settings})
    assert tracker is not None
    return tracker


def train(run: Run, tracker: Tracker, moments: range) -> None:
    """Log some moments as Lightning does: first to metrics.csv, then to the tracker."""
    for i in moments:
        for logger in (MetricsFile(run), tracker):
            logger.log_metrics({"train/loss": 1 / (i + 1), "real_tokens": 100.0 * i, "epoch": 0}, i)


def end(tracker: Tracker) -> None:
    """End the run, and W&B's own process, which writes the files a moment later."""
    tracker.finish()
    wandb.teardown()


def logs(run: Run) -> list[Path]:
    return sorted(run.path.glob("wandb/*run-*/*.wandb"))


def recorded(run: Run) -> list[dict[str, Any]]:
    """The lines of history in all of W&B's files of a run."""
    return [
        {"/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for file in logs(run)
        for record in records(file)
        if record.HasField("history")
    ]


def assert_each_once(lines: list[dict[str, Any]], count: int) -> None:
    assert [line["_step"] for line in lines] == list(range(count))
    for i, line in enumerate(lines):
        assert (line["step"], line["real_tokens"]) == (i, 100 * i)
        assert line["train/loss"] == pytest.approx(1 / (i + 1))
        assert "epoch" not in line
