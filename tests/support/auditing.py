"""Checks of the audit in tests, and what they found."""

from everytoken.audit import checks_data, checks_step
from everytoken.audit.report import CHECKS, Result

WITH_PROCESSES = (*checks_data.WITH_PROCESSES, *checks_step.WITH_PROCESSES)
IN_PROCESS = [check for check in CHECKS if check not in WITH_PROCESSES]


def failures(results: list[Result]) -> dict[str, str]:
    return {r.check.name: r.finding.note for r in results if not r.passed}
