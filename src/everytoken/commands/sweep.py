"""What became of the jobs of a sweep, and which did best."""

import math
from collections.abc import Mapping
from os.path import commonpath
from pathlib import Path

from omegaconf import DictConfig
from rich.table import Table

from everytoken.callbacks.monitors import directions
from everytoken.commands.factory import instantiate
from everytoken.config.jobs import Job, differing, label
from everytoken.config.literal import shown_command
from everytoken.run.directory import Run, shown
from everytoken.runtime.console import log
from everytoken.training.evaluation_metrics import EvaluationMetrics


def conclude(ends: Mapping[int, int | None], jobs: list[Job]) -> None:
    """Print a table of all jobs, the best of them, and how they are laid over each other.

    Args:
        ends: exit codes by job's number; None for those that did their work.
        jobs: all of them, in order.
    """
    runs = {job.number: Run(job.path) for job in jobs}
    done = {n: run for n, run in runs.items() if ends[n] is None and run.summary_file.is_file()}
    keys = differing(job.overrides for job in jobs)
    monitor, higher = watched(next(iter(done.values())).config) if done else ("val/loss", False)
    summaries = {number: run.summary or {} for number, run in done.items()}
    values = {number: summary.get(monitor, math.nan) for number, summary in summaries.items()}
    finite = {number: value for number, value in values.items() if math.isfinite(value)}
    best = None
    if finite and higher is not None:
        best = (max if higher else min)(finite, key=lambda number: finite[number])
    table = Table("job", "settings", monitor, "", show_edge=False, pad_edge=False)
    for job in jobs:
        code = ends[job.number]
        told = f"failed, exit code {code}" if code is not None else "best" * (job.number == best)
        value = f"{values[job.number]:.4g}" if job.number in values else ""
        table.add_row(str(job.number), label(job.overrides, keys), value, told)
    log("")
    log(table)
    if best is not None:
        settings = label(jobs[[job.number for job in jobs].index(best)].overrides, keys)
        log(f"best of {len(jobs)}: job {best} ({settings}) in {done[best].shown}")
    if len(done) > 1:
        folder = shown(Path(commonpath([run.path for run in done.values()])))
        log(f"compare them: {shown_command('compare', run=folder)}")


def watched(cfg: DictConfig) -> tuple[str, bool | None]:
    """By which metric a run keeps its best checkpoint, and whether more of it is better.

    None where nobody knows.
    """
    best = cfg.callbacks.get("best_checkpoint")
    monitor = "val/loss" if best is None else str(best.monitor)
    if best is not None and best.get("mode") is not None:
        return monitor, best.mode == "max"
    return monitor, metric_directions(cfg).get(monitor)


def metric_directions(cfg: DictConfig) -> dict[str, bool | None]:
    """All that runs of a config may log, and whether more of it is better; None if it isn't known.

    Raises:
        UserError: a metric that can't be made.
    """
    more = {str(name): instantiate(cfg.metrics, str(name)) for name in cfg.metrics}
    return directions(EvaluationMetrics(more, generates=True, counts_bytes=True))
