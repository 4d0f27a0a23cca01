"""python -m eval run=DIR [split=val]: exact metrics of a checkpoint on a split."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from everytoken.cli import main
from everytoken.launch import launch, process_count
from everytoken.runs import Run
from everytoken.settings import check_evaluation

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
    launch("everytoken.evaluation:evaluate", arguments, process_count(cfg.trainer))


if __name__ == "__main__":
    main("eval", evaluate, check=check_evaluation)
