"""Text in, text out, line by line: python -m generate run=DIR."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from everytoken.config import cli
from everytoken.config.check import Command
from everytoken.config.values import check_generation
from everytoken.run.directory import NOT_BUILT, Run
from everytoken.run.named_checkpoint import pointed
from everytoken.runtime.launch import launch
from everytoken.runtime.world import check_alone

KEYS = (
    *("checkpoint", "decoding", "max_new_tokens", "batch_size"),
    *("input", "output", "stream", "chat"),
)


def generate(cfg: DictConfig, command: Command) -> None:
    """Answer lines of text."""
    check_alone("generate")
    place, cfg.checkpoint = pointed(str(cfg.run), str(cfg.checkpoint))
    run = Run.open_whole(Path(place).absolute(), command.trusted, NOT_BUILT)
    choices = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(choices, dict)
    arguments = {"run_dir": str(run.path), **{key: choices.get(key) for key in KEYS}}
    launch("everytoken.commands.generate:generate", arguments, processes=1)


def main() -> None:
    """The command."""
    cli.main("generate", generate, check=check_generation)
