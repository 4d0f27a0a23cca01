"""A run that ends before its last step says why, and goes on once it may."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from omegaconf import OmegaConf

from everytoken.callbacks.early_end import early_end, lost, told
from everytoken.callbacks.last_checkpoint import LastCheckpoint
from everytoken.errors import FAILURE
from everytoken.run.checkpoint_file import read
from everytoken.run.directory import Run
from support.fitting import STEPS, fit
from support.helpers import assert_refused, run_here, summary
from support.small_runs import SMALL


class Scores(L.Callback):
    """Logs a score for each step."""

    def __init__(self, *scores: float) -> None:
        self.scores = scores

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.log("score", self.scores[trainer.global_step - 1])


class Break(L.Callback):
    """As if the process was killed before a step."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        raise ConnectionError


class Stop(L.Callback):
    """A callback of one's own that ends training."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == 2


def parts(patience: int = 2, **settings: Any) -> list[L.Callback]:
    stopping = EarlyStopping("score", patience=patience, **settings)
    return [LastCheckpoint(1, 1), Scores(3, 2, 2, 2, 2, 2, 2, 2), stopping]


@pytest.mark.parametrize(
    ("callbacks", "step", "reason"),
    [
        (parts(), 4, "score has not improved in the last 2 validations, its best is 2"),
        (parts(stopping_threshold=2.5), 2, "score has reached 2.5"),
        (parts(divergence_threshold=2.5), 1, "score is beyond 2.5"),
        ([Scores(1, float("nan")), EarlyStopping("score")], 2, "score is not finite"),
        ([Stop()], 2, "a callback asked for it"),
        (parts(9), STEPS, None),
        ([], STEPS, None),
    ],
)
def test_the_reason_is_told(
    tmp_path: Path, callbacks: list[L.Callback], step: int, reason: str | None
) -> None:
    trainer, _ = fit(tmp_path, *callbacks, validate_every=1)
    assert (trainer.global_step, early_end(trainer)) == (step, reason)


@pytest.mark.parametrize(
    ("scores", "monitored", "wrong"),
    [
        ((1, float("nan")), True, "score is nan in the last validation, at step 2"),
        ((1, float("-inf")), True, "score is -inf in the last validation, at step 2"),
        ((float("nan"), 1), True, None),
        ((1, float("nan")), False, None),
    ],
)
def test_what_is_monitored_is_a_number_in_the_end(
    tmp_path: Path, scores: tuple[float, ...], monitored: bool, wrong: str | None
) -> None:
    watching = [EarlyStopping("score", check_finite=False)] if monitored else []
    trainer, _ = fit(tmp_path, Scores(*scores), *watching, validate_every=1, stop=2)
    found = lost(trainer)
    assert found is None if wrong is None else str(found).startswith(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("callbacks", ["default", "early_stopping", "none"])
def test_a_run_without_a_number_fails_and_keeps_what_it_has(tmp_path: Path, callbacks: str) -> None:
    model = "model._target_=support.own_modules.LostInEvaluation"
    words = ["hydra.run.dir=run", *SMALL, "trainer=cpu", "task.max_new_tokens=null", model]
    done = run_here(tmp_path, "train", *words, f"callbacks={callbacks}")
    assert_refused(done, "val/loss is nan in the last validation", code=FAILURE)
    remedy = "+callbacks.early_stopping.check_finite=false"
    assert (remedy in done.stdout) == (callbacks == "early_stopping")
    found = summary(tmp_path / "run")
    assert found["val/loss"] is None
    assert found["steps"] == (3 if callbacks == "early_stopping" else 6)


@pytest.mark.parametrize("without", [False, True], ids=["more patience", "without"])
def test_what_may_go_on_goes_on_as_if_it_had_never_ended(tmp_path: Path, without: bool) -> None:
    """Also where it is killed again before it saves."""
    later = parts()[:2] if without else parts(9)
    fit(tmp_path / "whole", *parts(9), validate_every=1)
    fit(tmp_path / "ended", *parts(), validate_every=1)
    with pytest.raises(ConnectionError):
        fit(tmp_path / "ended", *later, Break(), validate_every=1, resume=True)
    trainer, _ = fit(tmp_path / "ended", *later, validate_every=1, resume=True)
    assert early_end(trainer) is None
    whole, ended = (
        read(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "ended")
    )
    assert ended["global_step"] == STEPS
    for name, weight in whole["state_dict"].items():
        assert torch.equal(ended["state_dict"][name], weight)


def test_with_more_steps_alone_the_patience_begins_anew(tmp_path: Path) -> None:
    """Else such a run would make the steps to its next validation, and end again."""
    fit(tmp_path, *parts(), validate_every=1)
    trainer, _ = fit(tmp_path, *parts(), validate_every=1, stop=8, resume=True)
    assert trainer.global_step == 4 + 2
    assert early_end(trainer) == "score has not improved in the last 2 validations, its best is 2"


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({"patience": 2}, "callbacks.mine.patience=4"),
        ({"patience": 0}, "callbacks.mine.patience=1"),
        ({}, "+callbacks.mine.patience=6"),
        ({"stopping_threshold": 2.5}, "callbacks.mine.stopping_threshold=null"),
        ({"divergence_threshold": 2.5}, "callbacks.mine.divergence_threshold=null"),
        ({"divergence_threshold": 2.5, "patience": 1}, "callbacks.mine.divergence_threshold=null"),
    ],
)
def test_what_is_printed_lets_the_run_go_on(
    tmp_path: Path, settings: dict[str, Any], more: str
) -> None:
    run = Run.create(tmp_path / "run", OmegaConf.create({"name": "mine"}))
    callbacks = [LastCheckpoint(1, 1), Scores(3, 2, 2, 2, 2, 2, 2)]
    config = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "score"}
    parts = {"mine": config | settings, "none": None, "best": {"monitor": "score"}}
    stopping = EarlyStopping("score", **settings)
    trainer, _ = fit(run.path, *callbacks, stopping, validate_every=1, stop=7)
    line = told(trainer, run, parts)
    assert line is not None
    assert line.endswith(f"to go on: python -m train resume={run.shown} {more}")
    key, _, value = more.rpartition(".")[2].partition("=")
    settings |= {key: None if value == "null" else int(value)}
    more_of_it = [*callbacks, EarlyStopping("score", **settings)]
    longer, _ = fit(run.path, *more_of_it, validate_every=1, stop=7, resume=True)
    assert longer.global_step > trainer.global_step


@pytest.mark.slow
def test_a_run_says_why_it_ended_and_goes_on_with_more_patience(tmp_path: Path) -> None:
    stopping = ["callbacks=early_stopping", "+callbacks.early_stopping.min_delta=100"]
    stopping += ["callbacks.early_stopping.patience=1", "trainer.val_check_interval=1"]
    words = ["hydra.run.dir=run", *SMALL, "trainer=cpu", *stopping, "task.max_new_tokens=null"]
    done = run_here(tmp_path, "train", *words)
    reason = "val/loss has not improved in the last 1 validations"
    assert f"ended early at step 2 of 6: {reason}" in done.stdout, done.stderr
    again = "resume=run callbacks.early_stopping.patience=2"
    assert f"to go on: python -m train {again}" in done.stdout
    refused = run_here(tmp_path, "train", "resume=run", "callbacks.report=null")
    assert_refused(refused, reason, "unless callbacks.early_stopping.patience=2 is given")
    assert run_here(tmp_path, "train", *again.split()).returncode == 0
    assert summary(tmp_path / "run")["steps"] == 3
    assert run_here(tmp_path, "train", "resume=run", "callbacks=default").returncode == 0
    assert summary(tmp_path / "run")["steps"] == 6
    assert_refused(run_here(tmp_path, "train", "resume=run"), "run is finished")
