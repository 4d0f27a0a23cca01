"""The job behind `python -m compare`: several runs laid over each other on one page."""

import os
import re
from collections import Counter
from itertools import chain, count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from everytoken.config.jobs import label
from everytoken.config.literal import plain
from everytoken.errors import UserError
from everytoken.report.collect import collect
from everytoken.report.page import runs_on, write_page
from everytoken.run.directory import Run

PAGE = "compare.html"
"""The page, or compare-2.html and so on where that is of other runs."""

MOST_LOOKED_AT = 50
"""Runs beside one, to find the one before it."""

MOST_SETTINGS = 3
"""That tell runs apart in a legend."""


def check_comparison(cfg: DictConfig) -> None:
    """Refuse what names no runs.

    Raises:
        UserError: what is wrong, and what to do.
    """
    if OmegaConf.is_missing(cfg, "run"):
        raise UserError("which runs? give 'run=[DIR,DIR]', folders that python -m train made")
    names = cfg.run if isinstance(cfg.run, ListConfig) else [cfg.run]
    if not all(isinstance(name, str | int) for name in names):
        raise UserError(f"run must be a list of folders, got {cfg.run!r}: give 'run=[DIR,DIR]'")
    if cfg.out is not None and (not isinstance(cfg.out, str) or not cfg.out):
        raise UserError(f"out must be the name of a file, got {cfg.out!r}")


def compare(cfg: DictConfig) -> Path:
    """Write the page.

    Returns:
        The file.

    Raises:
        UserError: no such runs, fewer than two, one twice, one that has logged nothing; a file that
            can't be written, or isn't ours.
    """
    names = cfg.run if isinstance(cfg.run, ListConfig) else [cfg.run]
    runs = [run for name in names for run in _runs(Path(str(name)))]
    if len(runs) < 2:
        given = f"{runs[0].path} alone" if runs else "none"
        raise UserError(f"two runs or more can be compared, got {given}: give 'run=[DIR,DIR]'")
    paths = [run.path.resolve() for run in runs]
    if twice := [run.path for run, path in zip(runs, paths, strict=True) if paths.count(path) > 1]:
        raise UserError(f"run has {twice[0]} twice: give each run once")
    for run in runs:
        if not (run.path / "metrics.csv").is_file():
            raise UserError(
                f"{run.path} has no metrics.csv yet: leave it out, or wait for its first step"
            )
    found = [collect(run) for run in runs]
    differing = different([one["config"] for one in found])
    told = labels([one["name"] for one in found], paths, differing)
    for one, shown in zip(found, told, strict=True):
        one["label"] = shown
        for key in ("picture", "moments", "predictions", "data"):
            one.pop(key, None)
    title = f"{len(runs)} runs"
    content = {"title": title, "runs": found, "different": differing}
    try:
        out = _place(cfg.out, Counter(str(run.identity.get("id")) for run in runs))
        write_page(out, title, content)
    except OSError as error:
        raise UserError(
            f"can't write {cfg.out or PAGE} ({error.strerror}): give another with out=FILE"
        ) from error
    return out


def _place(out: str | None, ids: Counter[str]) -> Path:
    """The file to write; a page of other runs, and what is no page, is never written over."""
    if out is None:
        page = Path(PAGE)
        others = (page.with_stem(f"{page.stem}-{n}") for n in count(2))
        return next(file for file in chain([page], others) if _of_others(file, ids) is None)
    if found := _of_others(Path(out), ids):
        raise UserError(f"{out} {found}: give another file with out=FILE")
    return Path(out)


def _of_others(file: Path, ids: Counter[str]) -> str | None:
    """What a file is that would be lost; None if the page has all that it shows."""
    if not file.exists():
        return None
    if (shown := runs_on(file)) is None:
        return "exists and is no report"
    if len(shown) < 2:
        return "is the report of a run"
    return None if Counter(shown) <= ids else "exists and compares other runs"


def _runs(path: Path) -> list[Run]:
    """The run of a folder, or those of the jobs of a sweep in it."""
    if path.is_dir() and not Run(path).identity_file.exists():
        jobs = sorted((p for p in path.iterdir() if Run(p).identity_file.exists()), key=_order)
        if jobs:
            return [Run.find(job) for job in jobs]
    return [Run.find(path)]


def run_before(run: Run) -> Run | None:
    """The newest run beside a run with which it can be compared; None if there is none."""
    here = run.path.resolve()
    others = [file for file in here.parent.glob("*/metrics.csv") if file.parent != here]
    if not others or not (wanted := _subject(run)):
        return None
    newest = sorted(others, key=lambda file: file.stat().st_mtime, reverse=True)[:MOST_LOOKED_AT]
    found = (Run(file.parent) for file in newest)
    return next((other for other in found if _subject(other) == wanted), None)


def _subject(run: Run) -> list[Any] | None:
    """What a run learns, of which texts: its losses are those of others with the same."""
    if not run.identity_file.exists():
        return None
    try:
        cfg = run.config
    except UserError:  # a folder that somebody else has put there
        return None
    keys = ("task.shape", "task.objective._target_", "data.corpus")
    return [plain(OmegaConf.select(cfg, key)) for key in keys]


def _order(path: Path) -> tuple[int, str]:
    return (int(path.name) if path.name.isdecimal() else -1, path.name)


def labels(
    names: list[str], paths: list[Path], differing: dict[str, list[str | None]]
) -> list[str]:
    """What tells runs apart: names that were given, or settings, or else parts of their paths.

    Args:
        names: of the runs.
        paths: of their directories.
        differing: what `different` gives.
    """
    are_distinct = len(set(names)) == len(names)
    if are_distinct and len({re.sub(r"\d+$", "", name) for name in names}) > 1:
        return names
    keys = [key for key in differing if key != "name" and not key.startswith("logger.")]
    if 0 < len(keys) <= MOST_SETTINGS:
        rows = zip(*(differing[key] for key in keys), strict=True)
        set_in = (
            [f"{k}={v}" for k, v in zip(keys, row, strict=True) if v is not None] for row in rows
        )
        found = [label(values, keys) for values in set_in]
        if len(set(found)) == len(found):
            return found
    if are_distinct:
        return names
    top = os.path.commonpath(paths)
    return [str(path.relative_to(top)) for path in paths]


def different(configs: list[dict[str, str]]) -> dict[str, list[str | None]]:
    """Settings that aren't the same in all runs, with their values; None where there is none."""
    keys: dict[str, Any] = dict.fromkeys(key for config in configs for key in config)
    rows = {key: [config.get(key) for config in configs] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}
