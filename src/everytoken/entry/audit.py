"""Proves the invariants on your model and data: python -m audit [as train]."""

import sys

from omegaconf import DictConfig

from everytoken.config import cli
from everytoken.config.check import Command
from everytoken.config.values import check_training
from everytoken.errors import UserError
from everytoken.run.directory import remove_empty
from everytoken.run.overrides import with_implied
from everytoken.run.resume import create_run
from everytoken.runtime.rank import is_launched

failed: list[str] = []


def audit(cfg: DictConfig, command: Command) -> None:
    """Audit what `python -m train` would train with the same settings."""
    if is_launched():
        raise UserError("python -m audit starts its own processes: run it without torchrun or srun")
    run = create_run(cfg, command)
    try:
        from everytoken.audit.report import audit as passes  # only here: it imports torch

        if not passes(str(run.path)):
            failed.append(str(run.path))
    except (UserError, SystemExit, KeyboardInterrupt):
        run.discard_unless_trained()
        raise


def main() -> None:
    """The command."""
    failed.clear()
    undo = lambda: remove_empty(cli.run_dir())  # noqa: E731
    cli.main("train", audit, check=check_training, expand=with_implied, undo=undo)
    sys.exit(1 if failed else 0)  # only now: a sweep audits all of its jobs
