"""python -m generate run=DIR: text in, text out, line by line."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from everytoken.config.cli import main
from everytoken.config.values import check_generation
from everytoken.run.directory import Run
from everytoken.runtime.launch import launch

KEYS = (
    *("checkpoint", "decoding", "max_new_tokens", "batch_size"),
    *("input", "output", "stream"),
)


def generate(cfg: DictConfig) -> None:
    """Answer lines of text."""
    run = Run.open_whole(Path(cfg.run).absolute())
    choices = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(choices, dict)
    arguments = {"run_dir": str(run.path), **{key: choices.get(key) for key in KEYS}}
    launch("everytoken.commands.generate:generate", arguments, processes=1)


if __name__ == "__main__":
    main("generate", generate, check=check_generation)
