"""python -m generate run=DIR: text in, text out, line by line."""

from pathlib import Path

from omegaconf import DictConfig

from everytoken.cli import main
from everytoken.config import check_generation
from everytoken.launch import launch
from everytoken.runs import Run


def generate(cfg: DictConfig) -> None:
    """Answer the lines of standard input."""
    run = Run.open(Path(cfg.run).absolute())
    arguments = {
        "run_dir": str(run.path),
        "checkpoint": cfg.checkpoint,
        "max_new_tokens": cfg.max_new_tokens,
        "batch_size": cfg.batch_size,
    }
    launch("everytoken.generation:generate", arguments, processes=1)


if __name__ == "__main__":
    main("generate", generate, check=check_generation)
