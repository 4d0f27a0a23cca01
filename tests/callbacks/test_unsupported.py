"""Each callback of Lightning works, or is refused before anything is trained with what to do."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch import callbacks as lightning
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig

from everytoken.callbacks.last_checkpoint import LastCheckpoint
from everytoken.callbacks.unsupported import SETTINGS, UNSUPPORTED, check_supported
from everytoken.commands.build import build_callbacks
from everytoken.errors import UserError
from everytoken.run.directory import Run
from support.fitting import STEPS, fit, make_module
from support.helpers import assert_refused, run_here
from support.readmes import ROOT
from support.small_runs import SMALL

ARGUMENTS: dict[str, dict[str, Any]] = {
    "EarlyStopping": {"monitor": "val/loss", "patience": 9},
    "GradientAccumulationScheduler": {"scheduling": {0: 2}},
    "ModelCheckpoint": {"monitor": "val/loss", "save_top_k": 2},
    "ModelPruning": {"pruning_fn": "l1_unstructured"},
    "OnExceptionCheckpoint": {"dirpath": "elsewhere"},
    "StochasticWeightAveraging": {"swa_lrs": 0.1},
    "ThroughputMonitor": {"batch_size_fn": len},
}
"""What they can't be made without, or do nothing without."""

NEED_A_LOGGER = ("DeviceStatsMonitor", "LearningRateMonitor")

REFUSED = {kind.__name__ for kind in UNSUPPORTED} | {
    *("BackboneFinetuning", "RichProgressBar", "TQDMProgressBar"),
    *("EMAWeightAveraging", "WeightAveraging"),  # a config that names them is given ours
}
WORK = {
    *("Callback", "Checkpoint", "DeviceStatsMonitor", "EarlyStopping", "LambdaCallback"),
    *("LearningRateMonitor", "ModelCheckpoint", "ModelSummary", "OnExceptionCheckpoint"),
    *("RichModelSummary", "Timer"),
}


def make(name: str, **settings: Any) -> L.Callback:
    return getattr(lightning, name)(**ARGUMENTS.get(name, {}) | settings)


def test_all_of_them_are_in_one_table_or_the_other() -> None:
    assert set(lightning.__all__) == REFUSED | WORK
    assert not REFUSED & WORK


class Scheduled(L.Callback):
    """One of the user's own, whose argument has whole numbers as keys."""

    def __init__(self, scheduling: dict[int, int]) -> None:
        self.scheduling = scheduling


def test_numbers_as_keys_of_a_yaml_stay_numbers(tmp_path: Path) -> None:
    metrics, own = make_module().val_metrics, f"{__name__}.Scheduled"
    refused = "lightning.pytorch.callbacks.GradientAccumulationScheduler"
    for target in (own, refused):
        mine = {"_target_": target, "scheduling": {0: 2, 4: 1}}
        config = DictConfig({"name": "x", "callbacks": {"mine": mine}})
        run = Run.create(tmp_path / target, config)  # and back, from the YAML
        if target == own:
            [callback] = build_callbacks(run.config, metrics)
            assert isinstance(callback, Scheduled)
            assert callback.scheduling == {0: 2, 4: 1}
        else:
            with pytest.raises(UserError, match=r"^callbacks\.mine: .* data\.batch_tokens"):
                build_callbacks(run.config, metrics)


@pytest.mark.bad_input
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cant_act_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"^callbacks\.mine: {name} .*: "):
        check_supported({"mine": make(name)}, {"mine": {}})


@pytest.mark.parametrize("name", sorted(WORK))
def test_the_others_work(tmp_path: Path, name: str) -> None:
    callback = make(name)
    check_supported({"mine": callback}, {"mine": ARGUMENTS.get(name, {})})
    logs = CSVLogger(tmp_path) if name in NEED_A_LOGGER else None
    trainer, _ = fit(tmp_path, LastCheckpoint(1, 1), callback, validate_every=1, logger=logs)
    assert trainer.global_step == STEPS


def test_the_table_for_users_has_all_of_them() -> None:
    table = (ROOT / "src/everytoken/callbacks/README.md").read_text(encoding="utf-8")
    bases = {"Callback", "Checkpoint", "BaseFinetuning", "ProgressBar"}
    assert {name for name in {*REFUSED, *WORK} - bases if f"`{name}`" not in table} == set()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ModelCheckpoint", {"every_n_epochs": 2}),
        ("ModelCheckpoint", {"save_on_train_epoch_end": True}),
        ("ModelCheckpoint", {"train_time_interval": timedelta(hours=1)}),
        ("ModelCheckpoint", {"save_last": True}),
        ("ModelCheckpoint", {"filename": "best"}),
        ("ModelCheckpoint", {"every_n_train_steps": 2}),
        ("EarlyStopping", {"check_on_train_epoch_end": True}),
        ("Timer", {"duration": "00:01:00:00"}),
        ("Timer", {"interval": "epoch"}),
    ],
)
def test_settings_that_cant_act_are_refused(name: str, settings: dict[str, Any]) -> None:
    [key] = settings
    part = ARGUMENTS.get(name, {}) | settings
    with pytest.raises(UserError, match=rf"^callbacks\.mine\.{key}.*: "):
        check_supported({"mine": make(name, **settings)}, {"mine": part})


def test_the_settings_are_lightnings() -> None:
    for kind, settings in SETTINGS.items():
        for key in settings:
            assert key in kind.__init__.__annotations__, (kind, key)


@pytest.mark.bad_input
@pytest.mark.slow
def test_a_run_is_refused_before_its_directory_holds_anything(tmp_path: Path) -> None:
    target = "+callbacks.mine._target_=lightning.pytorch.callbacks"
    for words in (
        [f"{target}.RichProgressBar"],
        [f"{target}.ModelCheckpoint", "+callbacks.mine.save_top_k=-2"],
    ):
        done = run_here(tmp_path, "train", *SMALL, "hydra.run.dir=run", *words)
        assert_refused(done, re.match(r"\+?(callbacks\.\w+)", words[0])[1])  # pyright: ignore
        assert not (tmp_path / "run").exists()
