"""python -m eval run=DIR [split=val]: exact metrics of a checkpoint on a split."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from everytoken.cli import main
from everytoken.config import check_evaluation
from everytoken.launch import launch, process_count
from everytoken.runs import Run


def evaluate(cfg: DictConfig) -> None:
    """Evaluate a run."""
    run = Run.open(Path(cfg.run).absolute())
    arguments = {
        "run_dir": str(run.path),
        "split": cfg.split,
        "checkpoint": cfg.checkpoint,
        "trainer": OmegaConf.to_container(cfg.trainer),
        "precision": None if cfg.precision is None else OmegaConf.to_container(cfg.precision),
    }
    launch("everytoken.evaluation:evaluate", arguments, process_count(cfg.trainer))


if __name__ == "__main__":
    main("eval", evaluate, check=check_evaluation)
