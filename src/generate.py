"""python -m generate run=DIR: text in, text out, line by line."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from everytoken.cli import main
from everytoken.launch import launch
from everytoken.runs import Run
from everytoken.settings import check_generation

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
    launch("everytoken.generation:generate", arguments, processes=1)


if __name__ == "__main__":
    main("generate", generate, check=check_generation)
