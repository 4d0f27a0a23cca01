"""What callbacks use of the insides of Lightning and torch is there, and does its work."""

import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, model_checkpoint
from lightning.pytorch.loggers.logger import DummyLogger
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from everytoken.callbacks.lightning_internals import (
    LOOKS,
    UNSAVED,
    allow_steps,
    begin_after,
    end_step,
    expect_files,
    handle_no_signals,
)
from everytoken.callbacks.torch_internals import set_last_lr
from support.fitting import make_module, steps
from support.upstream import changed


def of_lightning(what: str) -> str:
    return changed("lightning", what, "callbacks/lightning_internals.py")


def test_a_model_checkpoint_has_what_it_does_not_save() -> None:
    callback = ModelCheckpoint()
    for name in UNSAVED:
        assert hasattr(callback, name), of_lightning(f"ModelCheckpoint.{name}")
        assert name not in callback.state_dict(), of_lightning("ModelCheckpoint.state_dict")


def test_a_model_checkpoint_need_not_look_whether_there_are_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []
    monkeypatch.setattr(model_checkpoint, "_is_dir", lambda *place, **_: looked.append(place))
    plain, expecting = ModelCheckpoint(tmp_path), ModelCheckpoint(tmp_path)
    expect_files(expecting)
    for callback in (expecting, plain):
        assert not looked, of_lightning(LOOKS)
        callback.setup(make_trainer(Loop()), make_module(), "fit")
    assert looked, of_lightning("ModelCheckpoint.setup, which no longer looks for files")


class Loop(L.Callback):
    """What a fit does, as Lightning's own loops count it."""

    def __init__(self, end_step: bool = False) -> None:
        self.end_step = end_step
        self.begun: list[int] = []
        self.validated: list[int] = []
        self.handler: Any = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)
        if self.end_step:
            end_step(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.begun.append(trainer.global_step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validated.append(trainer.global_step)


class LoggedSteps(DummyLogger):
    """Steps after which the loss is logged: every second, as Lightning counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.trainer: L.Trainer | None = None

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if "train/loss" in metrics and self.trainer:
            self.steps.append(self.trainer.global_step)


def make_trainer(loop: Loop, logged: LoggedSteps | None = None) -> L.Trainer:
    """Of five steps; every second is logged, with a validation after it."""
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=5,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=2,
        logger=logged or False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[loop],
    )
    if logged:
        logged.trainer = trainer
    return trainer


def fit(trainer: L.Trainer) -> None:
    batches: Any = 2 * steps()
    training, validation = (DataLoader(part, batch_size=None) for part in (batches, batches[0]))
    trainer.fit(make_module(), training, validation)


def test_signals() -> None:
    """Lightning handles SIGTERM in a fit, unless what sets its handlers is replaced."""
    before = signal.getsignal(signal.SIGTERM)
    plain, ours = Loop(), Loop()
    fit(make_trainer(plain))
    trainer = make_trainer(ours)
    handle_no_signals(trainer)
    fit(trainer)
    signal.signal(signal.SIGTERM, before)
    found = of_lightning("Trainer._signal_connector.register_signal_handlers")
    assert plain.handler != before, f"{found}: it may not be needed any more"
    assert ours.handler == before, found


def test_the_exchange_about_signals_in_each_step() -> None:
    loop = type(make_trainer(Loop()).fit_loop.epoch_loop)
    found = of_lightning("_TrainingEpochLoop._broadcast_sigterm_tensor")
    assert hasattr(loop, "_broadcast_sigterm_tensor"), found
    assert "_broadcast_sigterm_tensor" in loop.advance.__code__.co_names, found


def test_counting_goes_on_after_a_step() -> None:
    loop, logged = Loop(), LoggedSteps()
    trainer = make_trainer(loop, logged)
    begin_after(trainer, 3, logged=3)
    fit(trainer)
    assert loop.begun == [3, 4], of_lightning("the progress of optimizer steps in its loops")
    assert loop.validated == [4], of_lightning("_TrainingEpochLoop.batch_progress")
    assert logged.steps == [4], of_lightning("_TrainingEpochLoop._batches_that_stepped")


def test_what_follows_a_step_is_done_when_asked_for() -> None:
    loop, logged = Loop(end_step=True), LoggedSteps()
    trainer = make_trainer(loop, logged)
    begin_after(trainer, 2, logged=1)
    fit(trainer)
    found = of_lightning("_FitLoop._data_fetcher or _TrainingEpochLoop.on_advance_end")
    assert loop.validated == [2, 4], found
    assert loop.begun == [2, 3, 4], found
    assert logged.steps == [4], found


def test_the_last_step_can_be_moved() -> None:
    loop = Loop()
    trainer = make_trainer(loop)
    allow_steps(trainer, 3)
    assert trainer.max_steps == 3, of_lightning("_TrainingEpochLoop.max_steps")
    fit(trainer)
    assert loop.begun == [0, 1, 2], of_lightning("_TrainingEpochLoop.max_steps")


def test_the_latest_learning_rate_of_a_scheduler() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = LambdaLR(optimizer, lambda step: 0.5)
    before = scheduler.state_dict()["_step_count"]
    set_last_lr(scheduler, [0.25])
    found = changed("torch", "LRScheduler._last_lr", "callbacks/torch_internals.py")
    assert scheduler.get_last_lr() == [0.25], found
    assert scheduler.state_dict()["_step_count"] == before, found
