"""Proves the invariants on your model and data: python -m audit [as train]."""

import sys

from omegaconf import DictConfig

from everytoken.config import cli
from everytoken.config.check import Command
from everytoken.config.literal import shown_command
from everytoken.config.values import check_training
from everytoken.corpora.files import at_home
from everytoken.errors import UserError
from everytoken.run.directory import remove_empty
from everytoken.run.overrides import with_implied
from everytoken.run.resume import create_run
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


def main() -> None:
    """The command."""
    failed.clear()
    undo = lambda: remove_empty(cli.run_dir())  # noqa: E731
    cli.main("train", audit, check=check_training, expand=settings, undo=undo)
    sys.exit(1 if failed else 0)  # only now: a sweep audits all of its jobs
