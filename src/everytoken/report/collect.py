"""What a run directory says about its run, as plain values for the page."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml

from everytoken.config.literal import shown_command
from everytoken.config.secrets import NOT_OF_RUN
from everytoken.errors import UserError, one_line
from everytoken.run.directory import Run
from everytoken.run.metrics_reader import read_metrics
from everytoken.run.stored import read_object

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

REPORT = "report.html"
OBSERVED = "report.json"
"""What only training can see: the picture, predictions, the machine."""

POINTS = 1000
"""Most points of a curve; the extremes are among them."""

Series = dict[int, float]
"""Value by step; NaN and infinities included."""

Curve = tuple[list[int], list[float | None]]
"""Steps, and values: None where one isn't finite."""


def collect(run: Run, summary: dict[str, Any] | None = None) -> dict[str, Any]:
    """Everything that the page shows of a run.

    Args:
        run: the run.
        summary: its summary; None for that of its directory, if there is one.

    Raises:
        UserError: a file of the run directory that can't be read.
    """
    try:
        return _collect(run, run.summary if summary is None else summary)
    except (OSError, ValueError) as error:
        reason = one_line(error)
        raise UserError(f"can't read the run {run.shown}: {reason}") from error


def _collect(run: Run, summary: dict[str, Any] | None) -> dict[str, Any]:
    config = settings(run)
    identity, metrics = run.identity, by_column(read_metrics(run))
    observed = {"state": "running", **seen(run)}
    if summary is not None:
        observed["state"] = "finished"
    latest = {name: series[max(series)] for name, series in metrics.items()}
    return {
        "name": identity["name"],
        "identity": identity,
        "path": str(run.path.absolute()),
        "command": shown_command(
            "train", "--config-dir", run.path.absolute(), "--config-name", "config"
        ),
        "config": config,
        "train_loss": train_loss(config),
        "data": _counted(run),
        "summary": _finite(summary) if summary is not None else None,
        "latest": _finite(latest),
        "step": int(max((max(series) for series in metrics.values()), default=0)),
        "curves": _curves(metrics),
        "tokens": curve(metrics.get("real_tokens", {})),
        **observed,
    }


def settings(run: Run) -> dict[str, str]:
    """The values of config.yaml by dotted name; what the environment gives stays a reference.

    Raises:
        UserError: it can't be read.
    """
    # Read plainly: OmegaConf takes ten times as long, and this is done at each validation.
    try:
        cfg = yaml.load(run.config_file.read_text(encoding="utf-8"), YAML_LOADER)
        if not isinstance(cfg, dict):
            raise ValueError(f"it holds {cfg!r:.20}, no keys")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"can't read {run.config_file} ({one_line(error)}): restore it from a copy, or give "
            "another run"
        ) from error
    found: dict[str, str] = {}

    def visit(value: Any, path: str) -> None:
        if isinstance(value, dict) and value:
            for key, part in value.items():
                visit(part, f"{path}.{key}" if path else str(key))
        else:
            found[path] = value if isinstance(value, str) else json.dumps(value)

    visit({key: part for key, part in cfg.items() if key not in NOT_OF_RUN}, "")
    return found


def train_loss(config: dict[str, str]) -> str:
    """What training adds to the loss that evaluation measures; "" if both are of one kind."""
    target = config.get("module._target_", "TokenModule").rpartition(".")[2]
    own = [] if target == "TokenModule" else [f"of {target}"]
    for key, name in (("label_smoothing", "label smoothing"), ("z_loss", "z-loss")):
        value = config.get(f"module.{key}", config.get(key, "0"))
        own += [f"with {name} {value}"] if value not in ("0", "0.0", "null") else []
    return ", ".join(own)


def by_column(lines: Sequence[dict[str, float]]) -> dict[str, Series]:
    """Lines of metrics.csv → its columns, without what evaluation after training adds to val/."""
    columns: dict[str, Series] = {}
    is_final = False
    for line in reversed(lines):
        values = dict(line)
        if "step" not in values:
            continue
        step = int(values.pop("step"))
        if any(name.startswith("test/") for name in values):
            is_final = True
        elif is_final and any(name.startswith("val/") for name in values):
            is_final = False
            continue
        for name, value in values.items():
            columns.setdefault(name, {}).setdefault(step, value)  # of a step, the last line's
    return columns


def _curves(metrics: dict[str, Series]) -> dict[str, dict[str, Any]]:
    """Curves by name, then by split; what is no metric of a split is named "run"."""
    found: dict[str, dict[str, Any]] = {}
    for column, series in metrics.items():
        split, _, name = column.rpartition("/")
        if split in ("train", "val"):
            found.setdefault(name, {})[split] = curve(series)
        elif split == "throughput":
            found.setdefault(name, {})["run"] = curve(series)
    return found


def curve(series: Series, points: int = POINTS) -> Curve:
    """At most so many points in the order of steps, lowest and highest of each stretch kept."""
    steps = sorted(series)
    values = [series[step] for step in steps]
    if len(steps) > points:
        kept = _extremes(np.array(values), points)
        steps, values = [steps[i] for i in kept], [values[i] for i in kept]
    return steps, [float(f"{v:.6g}") if math.isfinite(v) else None for v in values]


def _extremes(values: np.ndarray, points: int) -> list[int]:
    finite = np.where(np.isfinite(values), values, np.nan)
    kept = {0, len(values) - 1}
    for part in np.array_split(np.arange(len(values)), points // 2 - 1):
        inside = finite[part]
        if np.isnan(inside).all():
            kept.add(int(part[0]))
        else:
            kept |= {int(part[np.nanargmin(inside)]), int(part[np.nanargmax(inside)])}
    return sorted(kept)


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {name: value if abs(value) < float("inf") else None for name, value in values.items()}


def seen(run: Run) -> dict[str, Any]:
    """What report.json says; nothing if there is none.

    Raises:
        UserError: it is damaged.
    """
    file = run.path / OBSERVED
    if not file.is_file():
        return {}
    remedy = "restore it from a copy, or remove it: report.html then lacks what it showed so far"
    found = read_object(file, remedy)
    moments = found.get("moments", [])
    if not isinstance(moments, list) or not all(
        isinstance(moment, dict) and isinstance(moment.get("step"), int) for moment in moments
    ):
        raise UserError(f"{file} has {moments!r:.20} as its moments: {remedy}")
    return found


def _counted(run: Run) -> dict[str, Any] | None:
    """What data.json says; None if there is none."""
    if not run.data_file.is_file():
        return None
    remedy = "restore it from a copy, or remove it: what it counts is then not shown"
    found = read_object(run.data_file, remedy)
    if not isinstance(found.get("splits"), dict):
        raise UserError(f"{run.data_file} has no splits: {remedy}")
    return found
