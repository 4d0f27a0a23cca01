"""Exact metrics of a checkpoint on a split: python -m eval run=DIR [split=val]."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from everytoken.config import cli
from everytoken.config.check import Command
from everytoken.config.values import check_evaluation
from everytoken.run.directory import NOT_BUILT, Run
from everytoken.runtime.launch import launch, process_count

KEYS = ("split", "checkpoint", "trainer", "precision", "decoding")


def evaluate(cfg: DictConfig, command: Command) -> None:
    """Evaluate a run."""
    run = Run.open_whole(Path(cfg.run).absolute(), command.trusted, NOT_BUILT)
    choices = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(choices, dict)
    arguments = {"run_dir": str(run.path), **{key: choices.get(key) for key in KEYS}}
    launch("everytoken.commands.evaluate:evaluate", arguments, process_count(cfg.trainer))


def main() -> None:
    """The command."""
    cli.main("eval", evaluate, check=check_evaluation)
