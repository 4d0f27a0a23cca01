"""Proves the invariants on your model and data: python -m audit [as train].

Of training code that isn't ours: python -m audit target=package.module:make
The function returns a Trainer of transformers, (LightningModule, data module),
or what everytoken.audit.prepare(...) makes. What may stand beside it: layers=2,
out=FILE, eos_id=2, causal=true, isolated=true, precision=fp16, processes=false
and resume=false.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from everytoken.config import cli
from everytoken.config.check import Command
from everytoken.config.literal import shown_command
from everytoken.config.values import check_training
from everytoken.corpora.files import at_home
from everytoken.errors import BAD_INPUT, UserError, one_line
from everytoken.run.directory import remove_empty
from everytoken.run.overrides import with_implied
from everytoken.run.resume import create_run
from everytoken.runtime.console import LEVELS, log, set_level
from everytoken.runtime.redact import print_error
from everytoken.runtime.unexpected import kept
from everytoken.runtime.world import check_alone

failed: list[str] = []


def audit(cfg: DictConfig, command: Command) -> None:
    """Audit what `python -m train` would train with the same settings."""
    check_alone("audit")
    run = create_run(cfg, command)
    try:
        from everytoken.audit.report import audit as passes  # only here: it imports torch

        if not passes(str(run.path)):
            failed.append(str(run.path))
    except (UserError, SystemExit, KeyboardInterrupt):
        run.discard_unless_trained()
        raise


def settings(command: Command) -> list[str]:
    """The overrides of a command, with what they imply.

    Raises:
        UserError: it names a run, whose settings are given in another way.
    """
    for word in command.overrides:
        key, is_setting, value = word.partition("=")
        place = at_home(value.strip("'\"") if key == "resume" else word)
        if (key == "resume" or not is_setting) and place.is_dir():
            again = shown_command("audit", "--config-dir", place, "--config-name", "config")
            raise UserError(f"{word} names a run: audit what it trains with {again}")
        if key == "resume" and value != "null":
            raise UserError(f"{word} is for python -m train, and audit goes on with no run")
    return with_implied(command)


def _truth(word: str) -> bool:
    found = {"true": True, "false": False}.get(word.lower())
    if found is None:
        raise ValueError("give true or false")
    return found


def _level(word: str) -> str:
    if word not in LEVELS:
        raise ValueError(f"give {', '.join(LEVELS)}")
    return word


FOREIGN: dict[str, Callable[[str], Any]] = {
    "target": str,
    "out": str,
    "layers": int,
    "eos_id": int,
    "precision": str,
    "causal": _truth,
    "isolated": _truth,
    "processes": _truth,
    "resume": _truth,
    "log_level": _level,
}
"""What can be said of foreign code, and how it is read."""


def audit_target(words: list[str]) -> int:
    """Audit what a function of the user's makes, and write audit.json here; the exit code."""
    given: dict[str, Any] = {}
    try:
        for word in words:
            key, _, value = word.partition("=")
            if key not in FOREIGN:
                raise UserError(f"{word} is not for target=…: give {', '.join(FOREIGN)}")
            if key in given:
                raise UserError(f"{word}: {key} is given twice")
            try:
                given[key] = FOREIGN[key](value)
            except ValueError as error:
                raise UserError(f"{key}={value} can't be read: {one_line(error)}") from error
        out = Path(given.pop("out", "audit.json"))
        if not out.parent.is_dir():
            raise UserError(f"out={out}: there is no folder {out.parent}")
        if "log_level" in given:
            set_level(given.pop("log_level"))
        from everytoken.audit.foreign.entrance import of_target, run  # only here: they import torch

        report = run(of_target(**given))
        report.save(out)
        verdict = f"{len(report.failures)} checks fail" if report.failures else "all checks pass"
        log(f"{report}\n\n{verdict}; {out} has it all")
        return int(not report.passed)
    except UserError as error:
        print_error(str(error))
        return error.exit_code
    except Exception as error:  # whatever the user's function raises
        print_error(kept(error, None))
        return BAD_INPUT


def main() -> None:
    """The command."""
    failed.clear()
    words = sys.argv[1:]
    if any(word.startswith("target=") for word in words):
        sys.exit(audit_target(words))
    undo = lambda: remove_empty(cli.run_dir())  # noqa: E731
    cli.main("train", audit, check=check_training, expand=settings, undo=undo)
    sys.exit(1 if failed else 0)  # only now: a sweep audits all of its jobs
