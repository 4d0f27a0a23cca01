"""Train, validate, test: python -m train [group=choice] [key=value].

One way down: compose the config, check it, claim a run directory, write the config there, and start
the ranks, which read everything from that directory.
"""

from contextlib import ExitStack

from omegaconf import DictConfig

from everytoken.config import cli
from everytoken.config.check import Command
from everytoken.config.jobs import Job, name_job
from everytoken.config.values import check_training
from everytoken.errors import RunError, UserError
from everytoken.run.directory import Run, remove_empty
from everytoken.run.overrides import all_overrides
from everytoken.run.resume import claim
from everytoken.runtime.agreement import agreed
from everytoken.runtime.launch import launch, process_count
from everytoken.runtime.slurm import requeue_if_preempted
from everytoken.runtime.world import check_started, global_rank


def train(cfg: DictConfig, command: Command) -> None:
    """Train in a new run directory, or go on in one that there is."""
    name_job(cfg, command)
    check_started()
    with ExitStack() as held:  # the run directory's lock
        path = agreed(lambda: claim(cfg, command, held), cfg.trainer.hang_timeout)
        if path is None:
            return
        run = Run(path)
        try:
            config = run.config
            trainer, tokens = config.trainer, config.data.microbatch_tokens
            lower = f"lower data.microbatch_tokens={tokens}, to {tokens // 2} for example"
            processes = process_count(trainer)
            job = ("everytoken.commands.train:train", {"run_dir": str(path)}, processes, lower)
            launch(*job, wait_seconds=trainer.hang_timeout)
        except (UserError, RunError, SystemExit) as left:
            if global_rank() == 0:
                run.discard_unless_trained()
            requeue_if_preempted(left, global_rank())
            raise


def main() -> None:
    """The command."""
    undo = lambda: remove_empty(cli.run_dir())  # noqa: E731
    cli.main(
        "train", train, check=check_training, expand=all_overrides, undo=undo, conclude=conclude
    )


def conclude(ends: dict[int, int | None], jobs: list[Job]) -> None:
    """Tell which job of a sweep did best."""
    from everytoken.commands.sweep import conclude as tell  # only here: it imports torch

    if global_rank() == 0:
        tell(ends, jobs)
