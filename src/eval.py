"""python -m eval run=DIR [split=val]: exact metrics of a checkpoint on a split."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from everytoken.config.cli import main
from everytoken.config.values import check_evaluation
from everytoken.run.directory import Run
from everytoken.runtime.launch import launch, process_count

KEYS = ("split", "checkpoint", "trainer", "precision", "decoding")


def evaluate(cfg: DictConfig) -> None:
    """Evaluate a run."""
    run = Run.open_whole(Path(cfg.run).absolute())
    choices = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(choices, dict)
    arguments = {
        "run_dir": str(run.path),
        **{key: choices.get(key) for key in KEYS},
    }
    launch("everytoken.commands.evaluate:evaluate", arguments, process_count(cfg.trainer))


if __name__ == "__main__":
    main("eval", evaluate, check=check_evaluation)
