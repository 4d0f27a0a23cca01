"""Runs the checks; tells, and writes down, what they found."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from everytoken.audit import (
    checks_answers,
    checks_classes,
    checks_data,
    checks_loss,
    checks_model,
    checks_step,
    checks_tags,
)
from everytoken.audit.check import Check, Finding
from everytoken.audit.subject import Subject
from everytoken.errors import one_line
from everytoken.run.directory import Run
from everytoken.runtime.console import Watch, console, log
from everytoken.runtime.files import write_json

CHECKS = (
    *checks_data.CHECKS,
    *checks_answers.CHECKS,
    *checks_classes.CHECKS,
    *checks_tags.CHECKS,
    *checks_model.CHECKS,
    *checks_loss.CHECKS,
    *checks_step.CHECKS,
    *checks_data.WITH_PROCESSES,
    *checks_step.WITH_PROCESSES,
)
"""In the order in which a fault shows first: data, model, loss, step, several processes."""


@dataclass(frozen=True)
class Result:
    """A check and what it found."""

    check: Check
    finding: Finding

    @property
    def passed(self) -> bool:
        """True if the difference is within its limit; a NaN never is."""
        return self.finding.difference <= self.finding.limit


def audit(run_dir: str) -> bool:
    """Audit the config of a run directory, write audit.json there; True if all checks pass."""
    started = time.perf_counter()
    run = Run(Path(run_dir))
    with Watch("building data and model"):
        subject = Subject(run)
    results = run_checks(subject, CHECKS)
    file = run.path / "audit.json"
    record = {**as_json(results), "seconds": time.perf_counter() - started}
    write_json(file, record)
    log(table(results))
    for result in results:
        if not result.finding.applies:
            log(f"{result.check.name} doesn't apply: {result.finding.note}")
    failed = [result for result in results if not result.passed]
    for result in failed:
        check, note = result.check, result.finding.note
        log(f"\n{check.name} fails: {note}\nwanted: {check.meaning}\nlook at {check.look}")
    where = f"{run.shown / file.name} has it all"
    if not failed:
        log(f"\nall checks pass; {where}")
    elif len(results) < len(CHECKS):
        log(f"\nnothing else can be measured before that is mended; {where}")
    else:
        count = f"{len(failed)} of {len(results)}"
        log(f"\n{count} checks fail; others may follow from the first; {where}")
    return not failed


def run_checks(subject: Subject, checks: Sequence[Check]) -> list[Result]:
    """Measure; a check that can't be carried out has failed, and its error is the finding."""
    results = []
    for check in checks:
        with Watch(f"checking {check.name}: {check.meaning}"):
            try:
                finding = check.measure(subject)
            except Exception as error:  # whatever the user's own parts raise belongs in the report
                text = one_line(error)
                finding = Finding(float("nan"), note=f"{type(error).__name__}: {text}")
        results.append(Result(check, finding))
        if check.is_basic and not results[-1].passed:
            break
    return results


def table(results: Sequence[Result]) -> Table:
    """One line for each check, without what it means where that would take two."""
    whole = _table(results, ["check", "what it means"])
    wanted = console.measure(whole, options=console.options.update(max_width=1000)).maximum
    return whole if wanted <= console.width else _table(results, ["check"])


def _table(results: Sequence[Result], heads: list[str]) -> Table:
    lines = Table(*heads, show_edge=False, pad_edge=False)
    for name in ("worst", "limit"):
        lines.add_column(name, justify="right")
    lines.add_column("verdict")
    for result in results:
        check, finding = result.check, result.finding
        numbers = (f"{n:.1e}" if n else "0" for n in (finding.difference, finding.limit))
        if not finding.applies:
            numbers, verdict = ("", ""), Text("n/a", "dim")
        else:
            verdict = Text("pass", "green") if result.passed else Text("FAILS", "bold red")
        lines.add_row(*[check.name, check.meaning][: len(heads)], *numbers, verdict)
    return lines


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """The same for programs; a difference that is no number is null."""
    return {
        "passed": all(result.passed for result in results),
        "checks": [
            {
                "check": r.check.name,
                "meaning": r.check.meaning,
                "difference": r.finding.difference if abs(r.finding.difference) < 1e300 else None,
                "limit": r.finding.limit,
                "passed": r.passed,
                "applies": r.finding.applies,
                "note": r.finding.note,
                "look": r.check.look,
            }
            for r in results
        ],
    }
