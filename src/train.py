"""python -m train [group=choice] [key=value]: train, validate, test."""

from omegaconf import DictConfig

from everytoken.cli import create_run, main, run_dir
from everytoken.errors import RunError, UserError
from everytoken.launch import global_rank, is_launched, launch, process_count
from everytoken.runs import Run, remove_empty
from everytoken.settings import check_training
from everytoken.slurm import requeue_if_preempted


def train(cfg: DictConfig) -> None:
    """Make a run directory and train in it."""
    processes = process_count(cfg.trainer)
    if cfg.trainer.num_nodes > 1 and not is_launched():
        raise UserError("trainer.num_nodes > 1 needs torchrun or srun to start the ranks")
    run = create_run(cfg) if global_rank() == 0 else Run.wait_for(run_dir())
    try:
        tokens = cfg.data.microbatch_tokens
        lower = f"lower data.microbatch_tokens={tokens}, to {tokens // 2} for example"
        launch("everytoken.training:train", {"run_dir": str(run.path)}, processes, lower)
    except (UserError, RunError, SystemExit) as left:
        run.discard_unless_trained()
        requeue_if_preempted(left, global_rank())
        raise


if __name__ == "__main__":
    main("train", train, check=check_training, undo=lambda: remove_empty(run_dir()))
