"""python -m train [group=choice] [key=value]: train, validate, test."""

import sys
from contextlib import ExitStack
from functools import partial

from omegaconf import DictConfig

from everytoken.config.cli import main, run_dir
from everytoken.config.values import check_training
from everytoken.errors import RunError, UserError
from everytoken.run.directory import Run, remove_empty
from everytoken.run.resume import choose, directory_of
from everytoken.runtime.launch import launch, process_count
from everytoken.runtime.rank import global_rank, is_launched
from everytoken.runtime.rendezvous import agreed
from everytoken.runtime.slurm import requeue_if_preempted


def train(cfg: DictConfig, words: list[str]) -> None:
    """Train in a new run directory, or go on in one that there is.

    Args:
        words: the command line.
    """
    with ExitStack() as held:  # the run directory's lock
        path = agreed(lambda: choose(cfg, words, held))
        if path is None:
            return
        run = Run(path)
        try:
            config = run.config
            trainer, tokens = config.trainer, config.data.microbatch_tokens
            if trainer.num_nodes > 1 and not is_launched():
                raise UserError("trainer.num_nodes > 1 needs torchrun or srun to start the ranks")
            lower = f"lower data.microbatch_tokens={tokens}, to {tokens // 2} for example"
            processes = process_count(trainer)
            launch("everytoken.commands.train:train", {"run_dir": str(path)}, processes, lower)
        except (UserError, RunError, SystemExit) as left:
            run.discard_unless_trained()
            requeue_if_preempted(left, global_rank())
            raise


def start(words: list[str]) -> None:
    """Let Hydra compose the config; of a run that goes on it is the run's own, not the default."""
    directory = directory_of(words)
    if directory is not None and not any(word.startswith("-") for word in words):
        quoted = str(directory).replace("\\", "\\\\").replace("'", "\\'")
        sys.argv[1:] = [f"resume='{quoted}'"]
        if directory.is_dir():
            sys.argv.append(f"hydra.run.dir='{quoted}'")
    job = partial(train, words=words)
    main("train", job, check=check_training, undo=lambda: remove_empty(run_dir()))


if __name__ == "__main__":
    start(sys.argv[1:])
