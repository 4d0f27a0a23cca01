"""Who a process is among the ranks of its job, as those say who started it."""

import os

import pytest
from omegaconf import OmegaConf

from everytoken.errors import UserError
from everytoken.runtime.launch import process_count
from everytoken.runtime.world import World, check_alone, check_started, is_launched, world

STEP = {
    **{"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "5", "SLURM_STEP_NUM_NODES": "3"},
    **{"SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURM_NODEID": "2", "SLURM_LOCALID": "0"},
    "SLURM_PROCID": "4",
}
RANK = {"LOCAL_RANK": "1", "RANK": "3", "WORLD_SIZE": "4"}


@pytest.fixture(autouse=True)
def nobody_started_this(monkeypatch: pytest.MonkeyPatch):
    ours = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")
    for name in [n for n in os.environ if n.startswith("SLURM_") or n in ours]:
        monkeypatch.delenv(name)


def given(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)


def test_a_process_alone_is_no_rank():
    assert world() is None
    assert not is_launched()
    check_started()
    check_alone("generate")


def test_a_rank_of_torchrun(monkeypatch: pytest.MonkeyPatch):
    given(monkeypatch, RANK | {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2"})
    assert world() == World(rank=3, local_rank=1, node=1, size=4, local_size=2, nodes=2)


def test_a_task_of_a_step_of_srun_on_nodes_with_different_numbers_of_them(
    monkeypatch: pytest.MonkeyPatch,
):
    given(monkeypatch, STEP)
    assert world() == World(rank=4, local_rank=0, node=2, size=5, local_size=1, nodes=3)


def test_torchrun_inside_srun_is_torchrun(monkeypatch: pytest.MonkeyPatch):
    given(monkeypatch, STEP | RANK)
    assert (here := world()) is not None
    assert here.rank == 3


def test_ranks_are_as_many_as_were_started_whatever_the_config_says(
    monkeypatch: pytest.MonkeyPatch,
):
    trainer = OmegaConf.create({"accelerator": "cpu", "devices": 7, "num_nodes": 1})
    assert process_count(trainer) == 7
    given(monkeypatch, STEP)
    assert process_count(trainer) == 1


@pytest.mark.bad_input
def test_half_of_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch):
    given(monkeypatch, {"LOCAL_RANK": "0"})
    with pytest.raises(UserError, match=r"WORLD_SIZE is not: start ranks by torchrun or srun, or"):
        world()


@pytest.mark.bad_input
def test_a_forgotten_srun_is_told_at_once(monkeypatch: pytest.MonkeyPatch):
    """Waiting for the other tasks it would wait for ever."""
    given(monkeypatch, {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"})
    with pytest.raises(UserError, match="2 tasks, and srun has started none of them: put srun"):
        check_started()


@pytest.mark.bad_input
def test_another_number_of_machines_than_was_asked_for_is_refused(
    monkeypatch: pytest.MonkeyPatch,
):
    given(monkeypatch, STEP)
    trainer = OmegaConf.create({"accelerator": "cpu", "devices": 1, "num_nodes": 3})
    assert process_count(trainer) == 1
    trainer.num_nodes = 2
    with pytest.raises(UserError, match="num_nodes=2, and ranks were started on 3 machines"):
        process_count(trainer)


@pytest.mark.bad_input
def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch):
    given(monkeypatch, RANK)
    trainer = OmegaConf.create({"accelerator": "cuda", "devices": "auto", "num_nodes": 1})
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UserError, match=r"4 ranks were started .* rank 3 sees 1 GPU: start"):
        process_count(trainer)


@pytest.mark.bad_input
def test_what_starts_its_own_processes_is_no_rank(monkeypatch: pytest.MonkeyPatch):
    given(monkeypatch, RANK)
    with pytest.raises(UserError, match="python -m generate starts what processes it needs"):
        check_alone("generate")
