"""Checks of the audit in tests, and what they found."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from everytoken.audit import checks_data, checks_step
from everytoken.audit.check import Check
from everytoken.audit.foreign import entrance
from everytoken.audit.report import CHECKS
from everytoken.audit.results import Result, run_checks
from everytoken.audit.subject import Subject
from everytoken.config.values import check_training
from everytoken.run.directory import Run
from everytoken.run.origin import Origin
from support import prefork
from support.helpers import composed

ONE_PROCESS = [check for check in entrance.CHECKS if check not in entrance.WITH_PROCESSES]
"""Of foreign code."""


def foreign_failures(door: Any, first: str) -> list[str]:
    """Checks of foreign code that fail, up to the one that should."""
    names = [check.name for check in entrance.CHECKS]
    before = entrance.CHECKS[: names.index(first) + 1]
    return entrance.run(door, [c for c in before if c.name == first or c in ONE_PROCESS]).failures


WITH_PROCESSES = (*checks_data.WITH_PROCESSES, *checks_step.WITH_PROCESSES)
IN_PROCESS = [check for check in CHECKS if check not in WITH_PROCESSES]


def failures(results: list[Result]) -> dict[str, str]:
    return {r.check.name: r.finding.note for r in results if not r.passed}


def up_to(first: str | None, checks: Iterable[Check]) -> list[Check]:
    """The checks that tell whether this one is the first that fails; all for none."""
    checks = list(checks)
    names = [check.name for check in checks]
    return checks if first is None else checks[: names.index(first) + 1]


def audit(
    folder: Path, words: list[str], checks: list[Check], model: str | None = None
) -> list[Result]:
    cfg = composed(*words)
    if model is not None:
        cfg.model = {"_target_": f"support.outside.{model}", "width": 16}
    check_training(cfg)
    begun = {"init_from": Origin.find(cfg.init_from).record()} if cfg.init_from else {}
    return run_checks(Subject(Run.create(folder / "run", cfg, begun)), checks)


def failures_with_processes(folder: Path, words: list[str], checks: list[Check]) -> dict[str, str]:
    """Of an audit in a process of its own, whose ranks are forks of it."""
    names = [check.name for check in checks]
    code = f"from support.auditing import write_failures; write_failures({words}, {names})"
    prefork.run(folder, "-c", code).check_returncode()
    return json.loads((folder / "failures.json").read_text())


def write_failures(words: list[str], names: list[str]) -> None:
    results = audit(Path(), words, [check for check in CHECKS if check.name in names])
    Path("failures.json").write_text(json.dumps(failures(results)))
