"""Exact metrics of a checkpoint on a split: python -m eval run=DIR [split=val]."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from everytoken.config import cli
from everytoken.config.check import Command
from everytoken.config.help import UNREAD
from everytoken.config.values import check_evaluation
from everytoken.config.words import parse
from everytoken.errors import UserError
from everytoken.run.directory import NOT_BUILT, Run
from everytoken.run.named_checkpoint import pointed
from everytoken.run.other_data import data_overrides, other_data, without_data
from everytoken.runtime.launch import launch, process_count

KEYS = ("split", "checkpoint", "trainer", "precision", "decoding", "max_new_tokens")


def evaluate(cfg: DictConfig, command: Command) -> None:
    """Evaluate a run."""
    for override in parse(command.overrides):
        if (key := override.key_or_group) in UNREAD["eval"]:
            raise UserError(
                f"{key} is of training, and evaluation does nothing with it: leave it out"
            )
    place, cfg.checkpoint = pointed(str(cfg.run), str(cfg.checkpoint))
    run = Run.open_whole(Path(place).absolute(), command.trusted, NOT_BUILT)
    choices = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(choices, dict)
    arguments = {"run_dir": str(run.path), **{key: choices.get(key) for key in KEYS}}
    data = other_data(run, command, cfg.split)
    arguments |= {"data": data, "data_overrides": data_overrides(command)}
    launch(
        "everytoken.commands.evaluate:evaluate",
        arguments,
        process_count(cfg.trainer),
        wait_seconds=cfg.trainer.hang_timeout,
    )


def main() -> None:
    """The command."""
    cli.main("eval", evaluate, check=check_evaluation, expand=without_data)
