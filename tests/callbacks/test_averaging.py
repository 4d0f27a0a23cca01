"""Averages of the weights: what they are, and what is validated and kept before there is one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from everytoken.callbacks.averaging import (
    SHARE,
    AveragedWeights,
    ExponentialMovingAverage,
    decay_for,
)
from everytoken.callbacks.best_checkpoint import BestCheckpoint
from everytoken.callbacks.last_checkpoint import LastCheckpoint
from everytoken.errors import UserError
from everytoken.run.checkpoint_file import read
from everytoken.training.module import TokenModule
from support.fitting import STEPS, fit, make_module

Weights = dict[str, Tensor]


class History(L.Callback):
    """The weights after each step, and those that are validated."""

    def __init__(self) -> None:
        self.trained: list[Weights] = []
        self.validated: list[Weights] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        self.trained.append(weights(module))

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        _: Any,
        batch: Any,
        index: int,
        *__: Any,
    ) -> None:
        if index == 0:
            self.validated.append(weights(module))


def weights(module: nn.Module) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in module.named_parameters()}


def averages(trained: list[Weights], decay: Callable[[int], float]) -> list[Weights]:
    """After each update, by the definition."""
    found = trained[:1]
    for n, new in enumerate(trained[1:], 1):
        kept = decay(n)
        found.append({k: kept * found[-1][k] + (1 - kept) * new[k] for k in new})
    return found


def assert_same(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("callback", "decay"),
    [
        (ExponentialMovingAverage(decay=0.999), lambda n: (1 + n) / (10 + n)),
        (ExponentialMovingAverage(decay=0.25), lambda n: min(0.25, (1 + n) / (10 + n))),
        (ExponentialMovingAverage(decay=0.9, warm_up=False), lambda n: 0.9),
        (AveragedWeights(), lambda n: n / (n + 1)),
    ],
)
def test_the_average_is_validated_and_kept_with_the_weights(
    tmp_path: Path, callback: AveragedWeights, decay: Callable[[int], float]
) -> None:
    history = History()
    _, module = fit(tmp_path, LastCheckpoint(1, 1), callback, history, validate_every=1)
    expected = averages(history.trained, decay)
    for found, wanted in zip(history.validated, expected, strict=True):
        assert_same(found, wanted)
    saved = read(tmp_path / "checkpoints" / "last.ckpt")
    assert_same({k: saved["state_dict"][k] for k in expected[-1]}, expected[-1])
    assert_same({k: saved["current_model_state"][k] for k in expected[-1]}, history.trained[-1])
    assert_same(weights(module), expected[-1])


def test_before_the_first_update_the_trained_weights_are_validated(tmp_path: Path):
    history = History()
    fit(tmp_path, ExponentialMovingAverage(update_starting_at_step=3), history, validate_every=1)
    late = averages(history.trained[3:], lambda n: 2 / 11)
    for found, wanted in zip(history.validated, [*history.trained[:3], *late], strict=True):
        assert_same(found, wanted)


@pytest.mark.parametrize("start", [0, 2, 3])
def test_best_holds_what_was_validated_best(tmp_path: Path, start: int) -> None:
    """The average after step 3, beside the weights; or, if there is none yet, these alone."""
    history, average = History(), ExponentialMovingAverage(update_starting_at_step=start)
    fit(tmp_path, BestCheckpoint("score", "min"), average, history, Score(), validate_every=1)
    best = read(tmp_path / "checkpoints" / "best.ckpt")
    assert best["global_step"] == 3
    assert_same({k: best["state_dict"][k] for k in history.validated[2]}, history.validated[2])
    raw = best.get("current_model_state", best["state_dict"])
    assert_same({k: raw[k] for k in history.trained[2]}, history.trained[2])
    assert ("averaging_state" in best) == ("current_model_state" in best) == (start < 3)


class Score(L.Callback):
    """Step 3 is the best."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.log("score", float(trainer.global_step != 3))


@pytest.mark.parametrize("stop", range(1, STEPS))
@pytest.mark.parametrize("settings", [{"decay": 0.9}, {"update_starting_at_step": 2}], ids=str)
def test_a_resumed_run_has_the_average_of_one_that_never_stopped(
    tmp_path: Path, stop: int, settings: dict[str, Any]
) -> None:
    def parts() -> list[L.Callback]:
        return [LastCheckpoint(1, 1), ExponentialMovingAverage(**settings)]

    fit(tmp_path / "whole", *parts(), validate_every=1)
    # Of a fit that is broken off, not ended: one that ends before its average begins is refused.
    with pytest.raises(ConnectionError):
        fit(tmp_path / "two", *parts(), BreakOff(stop), validate_every=1)
    fit(tmp_path / "two", *parts(), resume=True, validate_every=1)
    whole, two = (read(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "two"))
    for key in ("state_dict", "current_model_state", "averaging_state"):
        for name, tensor in whole[key].items():
            assert torch.equal(two[key][name], tensor), (key, name)


class BreakOff(L.Callback):
    """As if the process was killed, after a step and all that belongs to it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise ConnectionError


class Counting(nn.Module):
    """A model with buffers of both kinds."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head = model.head
        self.register_buffer("batches", torch.tensor(0))
        self.register_buffer("constant", torch.full((9,), 1 / 3))

    def forward(self, batch: Any) -> Tensor:
        self.batches += self.training
        return self.model(batch)


def test_counts_are_not_averaged_and_constants_stay(tmp_path: Path) -> None:
    """Bits per byte depend on a table of whole numbers, which truncated averages would change."""
    module: TokenModule = make_module()
    module.model = Counting(module.model)
    fit(tmp_path, ExponentialMovingAverage(decay=0.9), module=module)
    buffers = dict(module.model.named_buffers())
    assert int(buffers["batches"]) > STEPS
    assert torch.equal(buffers["constant"], torch.full((9,), 1 / 3))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "warmed up over 5 updates, to 0.4, so it is mostly of the last 2. That does no harm"),
        (
            {"warm_up": False},
            "is 99.5% of the first weights, which are random, after the last of 5",
        ),
        ({"decay": 0.9, "update_starting_at_step": 1}, "over 4 updates, to 0.357"),
        ({}, "callbacks.ema.decay=0.39 suits"),
        ({"decay": 0.39}, None),
        ({"decay": 0.3}, None),
        ({"decay": 0.3, "warm_up": False}, None),
    ],
)
def test_a_run_that_is_too_short_for_its_decay_is_told(
    tmp_path: Path, settings: dict[str, Any], words: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, ExponentialMovingAverage(**settings))
    told = capsys.readouterr().out
    assert words in told if words else "decay" not in told


@pytest.mark.parametrize("updates", [1, 6, 100, 1100, 10_000, 3_000_000])
def test_the_decay_that_is_advised_is_one_that_is_not_warned_of(updates: int) -> None:
    decay = decay_for(updates)
    assert ExponentialMovingAverage(decay).decay == decay
    assert SHARE / 10 < decay**updates <= SHARE


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": 1}, "decay must be a number above 0 and below 1, got 1"),
        ({"decay": "high"}, "decay must be"),
        ({"update_every_n_steps": 0}, "update_every_n_steps must be a whole number of at least 1"),
        ({"update_starting_at_step": -1}, "update_starting_at_step must be a whole number"),
        ({"update_starting_at_step": 5}, "would never begin: .*=5 is not before the last of 5"),
    ],
)
def test_what_cant_act_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        fit(tmp_path, ExponentialMovingAverage(**settings))
