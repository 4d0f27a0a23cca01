"""From config to objects: what runs a model."""

from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy

from everytoken.commands.build import (
    build_evaluator,
    build_metrics,
    build_module,
    build_trainer,
    factory,
    quiet_lightning,
)
from everytoken.commands.length import Length
from everytoken.commands.strategies import Replicas
from everytoken.commands.strategy import Alone
from everytoken.errors import UserError
from everytoken.run.directory import Run
from everytoken.runtime.world import world
from everytoken.tokenizer.learned import train_byte
from support.helpers import composed


@pytest.mark.parametrize(
    ("devices", "place", "expected"),
    [
        (1, {}, SingleDeviceStrategy),  # trainer=ddp on a machine with one GPU
        (2, {}, Replicas),
        (1, {"LOCAL_RANK": "0", "WORLD_SIZE": "1"}, Replicas),  # others may come
    ],
)
def test_a_process_without_others_exchanges_nothing(
    monkeypatch: pytest.MonkeyPatch, devices: int, place: dict[str, str], expected: type[Strategy]
):
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    cfg = composed("trainer=ddp_cpu", f"trainer.devices={devices}")
    assert type(build_evaluator(cfg).strategy) is expected


def test_a_process_alone_is_no_rank_after_a_fit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "0")  # as Lightning sets them for sharding by one process
    monkeypatch.setenv("WORLD_SIZE", "1")
    Alone().teardown()
    assert world() is None


def test_a_machine_of_a_cluster_is_no_reason_for_a_hint(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    SLURMEnvironment._validate_srun_used()
    assert any("srun" in str(told.message) for told in recwarn)
    recwarn.clear()
    quiet_lightning()
    SLURMEnvironment._validate_srun_used()
    assert not [*recwarn]


def test_metrics_that_are_null_are_left_out():
    cfg = composed("metrics=translation", "task=token_classification", "data=date_parts")
    tokenizer = train_byte([])
    tokenizer.labels = ["O", "B-DAY"]
    assert [*build_metrics(cfg, tokenizer)] == ["entities", "bleu", "chrf"]
    cfg.metrics.bleu = cfg.task.metrics.entities = None
    assert [*build_metrics(cfg, tokenizer)] == ["chrf"]


def test_a_model_of_float64_is_that_before_a_checkpoint_fills_it():
    """Lightning converts it after that, and would have rounded the weights."""
    cfg = composed("precision=fp64", "model=tiny", "model.width=16", "model.heads=2")
    tokenizer = train_byte([])
    module = build_module(cfg, tokenizer, total_steps=1)
    assert {weight.dtype for weight in module.model.parameters()} == {torch.float64}


@pytest.mark.parametrize(("device", "kept"), [("cpu", 1), ("cuda", 0)])
def test_who_trains_on_a_cpu_keeps_what_a_step_frees(
    device: str, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """On a GPU it would only hold the host's memory."""
    calls: list[None] = []
    monkeypatch.setattr("everytoken.commands.build.keep_freed", lambda: calls.append(None))
    monkeypatch.setattr(SingleDeviceStrategy, "root_device", torch.device(device))
    cfg = composed("model=tiny", "trainer=cpu", "logger=none", "callbacks=none")
    metrics = build_module(cfg, train_byte([]), total_steps=1).val_metrics
    build_trainer(cfg, Run.create(tmp_path / "run", cfg), Length(1, 1.0, 1, {}), metrics)
    assert len(calls) == kept


@pytest.mark.bad_input
def test_a_part_that_refuses_its_arguments_is_named_as_it_is_typed():
    cfg = composed("task.objective._target_=builtins.int")
    make = factory(cfg, "task.objective")
    with pytest.raises(UserError, match=r"^task\.objective: "):
        make(special=1)
    cfg.task.objective = {"_target_": "everytoken.training.warmup_cosine", "total_steps": 3}
    make = factory(cfg, "task.objective")
    with pytest.raises(UserError, match=r"^task\.objective\.total_steps is the run's to say"):
        make(None, total_steps=5)
    cfg.task.objective = {"_target_": "everytoken.training.warmup_cosine"}
    with pytest.raises(UserError, match=r"give \+task\.objective\.warmup_fraction=VALUE \+task"):
        factory(cfg, "task.objective")(None, total_steps=5)
    cfg.task.objective = {"_target_": "builtins.nothing"}
    with pytest.raises(UserError, match=r"^task\.objective: Error loading .builtins\.nothing"):
        factory(cfg, "task.objective")
