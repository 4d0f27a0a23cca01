"""Audits a fork: runs all checks on its settings; tells, and writes down, what they found."""

import time
from pathlib import Path

from everytoken.audit import (
    checks_answers,
    checks_classes,
    checks_data,
    checks_loss,
    checks_model,
    checks_step,
    checks_tags,
)
from everytoken.audit.results import as_json, run_checks, table, told
from everytoken.audit.subject import Subject
from everytoken.run.directory import Run
from everytoken.runtime.console import Watch, log
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
    failed = [result for result in results if not result.passed]
    for line in told(results):
        log(line)
    where = f"{run.shown / file.name} has it all"
    if not failed:
        log(f"\nall checks pass; {where}")
    elif len(results) < len(CHECKS):
        log(f"\nnothing else can be measured before that is mended; {where}")
    else:
        count = f"{len(failed)} of {len(results)}"
        log(f"\n{count} checks fail; others may follow from the first; {where}")
    return not failed
