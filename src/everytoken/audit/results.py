"""What checks found: measured, as a table, as JSON; the same for a fork and for foreign code."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from everytoken.audit.check import Check, Finding, Subject
from everytoken.errors import one_line
from everytoken.runtime.console import Watch, console
from everytoken.runtime.files import write_json
from everytoken.runtime.unexpected import where


@dataclass(frozen=True)
class Result:
    """A check and what it found."""

    check: Check[Any]
    finding: Finding

    @property
    def passed(self) -> bool:
        """True if the difference is within its limit; a NaN never is."""
        return self.finding.difference <= self.finding.limit


@dataclass(frozen=True)
class Report:
    """An audit of foreign code. `print` it, or `assert report.passed`."""

    results: list[Result]
    framework: str
    """Whose step was audited."""
    seconds: float
    """What it took."""

    @property
    def passed(self) -> bool:
        """True if no check fails."""
        return not self.failures

    @property
    def failures(self) -> list[str]:
        """Names of the checks that fail, the first cause first."""
        return [result.check.name for result in self.results if not result.passed]

    def save(self, file: str | Path) -> None:
        """Write audit.json."""
        about = {"framework": self.framework, "seconds": self.seconds}
        write_json(Path(file), as_json(self.results) | about)

    def __str__(self) -> str:
        with console.capture() as captured:
            console.print(table(self.results))
        return "\n".join([captured.get().rstrip(), *told(self.results)])


def told(results: Sequence[Result]) -> list[str]:
    """Lines that follow the table: what doesn't apply, and where to look for what fails."""
    lines = [
        f"{result.check.name} doesn't apply: {result.finding.note}"
        for result in results
        if not result.finding.applies
    ]
    for result in results:
        if not result.passed:
            check, note = result.check, result.finding.note
            lines += [f"\n{check.name} fails: {note}\nwanted: {check.meaning}"]
            lines += [f"look at {check.look}"]
    return lines


def run_checks(subject: Subject, checks: Sequence[Check[Subject]]) -> list[Result]:
    """Measure; a check that can't be carried out has failed, and its error is the finding."""
    results = []
    for check in checks:
        with Watch(f"checking {check.name}: {check.meaning}"):
            try:
                finding = check.measure(subject)
            except Exception as error:  # whatever the user's own parts raise belongs in the report
                text = f"{one_line(error)}{where(error)}"
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
