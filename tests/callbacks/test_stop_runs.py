"""Whole runs that are asked to stop, in any phase, wherever the signal arrives."""

import os
import time
from pathlib import Path

import pytest
import torch

from everytoken.runtime.launch import free_port
from support import prefork
from support.small_runs import SMALL

pytestmark = pytest.mark.slow

FOREVER = "trainer.max_steps=100000"
VALIDATE = "trainer.val_check_interval=2"
LAUNCHER, RANK_1, ALONE = ("launcher", 0), ("itself", 1), ("itself", 0)


def start(
    folder: Path, phase: str, name: str, whom: tuple[str, int], *words: str, **env: str
) -> prefork.Process:
    """A run in folder/run that is going to be asked to stop."""
    to, rank = whom
    ask = f"{{_target_: support.asking.Ask, phase: {phase}, name: {name}, to: {to}, rank: {rank}}}"
    path = os.pathsep.join(
        filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])
    )
    command = ["-m", "train", "hydra.run.dir=run", *SMALL, *words, f"+callbacks.ask={ask}"]
    env = {**os.environ, "PYTHONPATH": path, **env}
    return prefork.Process(*command, folder=folder, env=env, together=True)


def last_step(folder: Path) -> int:
    file = folder / "run" / "checkpoints" / "last.ckpt"
    return torch.load(file, weights_only=True)["global_step"]


@pytest.mark.parametrize(
    ("name", "whom", "trainer", "code"),
    [("SIGINT", ALONE, "auto", 130), ("SIGTERM", LAUNCHER, "ddp_cpu", 143)],
)
def test_training_finishes_its_step_and_saves(
    tmp_path: Path, name: str, whom: tuple[str, int], trainer: str, code: int
):
    run = start(tmp_path, "training", name, whom, FOREVER, f"trainer={trainer}")
    output, _ = run.communicate(timeout=120)
    assert run.returncode == code, output
    step = last_step(tmp_path)
    assert f"stopped at step {step} (" in output
    assert "Traceback" not in output
    if whom == ALONE:
        assert step == 2


def test_srun_has_the_job_queued_again_if_any_rank_hears_it(tmp_path: Path):
    """Ranks as srun starts them, of which only the second gets SIGUSR1."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    scontrol.chmod(0o755)
    slurm = {"JOB_ID": "77", "JOB_NAME": "train", "NTASKS": "2", "NTASKS_PER_NODE": "2"}
    slurm |= {"NODEID": "0", "NNODES": "1", "STEP_NUM_TASKS": "2", "STEP_NUM_NODES": "1"}
    slurm |= {"STEP_TASKS_PER_NODE": "2", "STEP_NODELIST": "localhost"}
    env = {f"SLURM_{name}": value for name, value in slurm.items()}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    env |= {"PATH": os.pathsep.join([str(tmp_path), os.environ["PATH"]])}
    words = (FOREVER, "trainer=ddp_cpu")
    runs = []
    for rank in ("0", "1"):
        place = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        runs.append(start(tmp_path, "training", "SIGUSR1", RANK_1, *words, **env, **place))
    outputs = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [138, 138], outputs
    assert last_step(tmp_path) == 3  # asked when the votes of the second were counted
    assert (tmp_path / "calls").read_text() == "requeue 77\n"
    assert "SLURM job 77 is queued again" in outputs[0]
    assert not list(tmp_path.rglob("hpc_ckpt*"))


def test_a_validation_is_left_at_once_and_takes_all_ranks_with_it(tmp_path: Path):
    words = (VALIDATE, "trainer=ddp_cpu", FOREVER)
    run = start(tmp_path, "validation", "SIGUSR1", RANK_1, *words)
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 138, output
    assert "rank 1 left at once (SIGUSR1)" in output
    assert "kept checkpoints/last.ckpt of step 2, goes on with:\n  python -m train" in output
    assert "Traceback" not in output
    assert last_step(tmp_path) == 2  # saved with a note that the validation is still to be made


def test_a_test_is_left_at_once_and_the_run_is_not_finished(tmp_path: Path):
    run = start(tmp_path, "test", "SIGTERM", ALONE, VALIDATE)
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 143, output
    assert "left at once (SIGTERM)" in output
    assert "kept checkpoints/last.ckpt of step 6, goes on with:\n  python -m train" in output
    assert "Traceback" not in output
    assert last_step(tmp_path) == 6
    assert not (tmp_path / "run" / "summary.json").exists()


def test_start_up_is_left_at_once_and_leaves_nothing(tmp_path: Path):
    """Though the other rank waits for this one, in C, where it hears nothing."""
    run = start(tmp_path, "start-up", "SIGUSR1", RANK_1, "trainer=ddp_cpu")
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 138, output
    assert not (tmp_path / "run").exists()
    assert "Traceback" not in output


def test_the_time_limit_ends_a_run_with_its_code(tmp_path: Path):
    started = time.monotonic()
    run = start(tmp_path, "never", "SIGTERM", ALONE, FOREVER, "trainer.time_limit=0.001")
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 124, output
    assert time.monotonic() - started > 3.6
    assert "trainer.time_limit is over" in output
