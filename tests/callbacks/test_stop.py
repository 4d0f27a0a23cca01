"""A run that is asked to stop in training."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from everytoken.callbacks.last_checkpoint import LastCheckpoint
from everytoken.callbacks.stop import StopOnRequest
from everytoken.runtime.signals import Stopped, stop_requests
from support.fitting import fit


@pytest.fixture(autouse=True)
def signals_are_heard() -> Iterator[None]:
    with stop_requests.listening():
        yield


class Ask(L.Callback):
    """Sends a signal to this process, in a step or at a hook."""

    def __init__(self, number: int, step: int, hook: str = "on_train_batch_start") -> None:
        self.number, self.step = number, step
        setattr(self, hook, self.ask)

    def ask(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM])
def test_the_step_is_finished_and_saved(tmp_path: Path, number: int):
    stop = StopOnRequest()
    trainer, _ = fit(tmp_path, Ask(number, 2), stop, LastCheckpoint(every_n_steps=100, keep=1))
    assert stop.reason == number
    assert trainer.global_step == 3
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3


def test_stopped_at_its_last_step_a_run_is_validated_when_it_goes_on(tmp_path: Path):
    """Whatever the interval: the last step counts for the best checkpoint too."""
    validated: list[int] = []

    class Validated(L.Callback):
        def on_validation_end(self, trainer: L.Trainer, *args: Any) -> None:
            validated.append(trainer.global_step)

    parts = [LastCheckpoint(every_n_steps=100, keep=1), StopOnRequest(), Validated()]
    fit(tmp_path, *parts, Ask(signal.SIGTERM, 4), validate_every=2)
    assert validated == [2, 4]
    stop_requests.noted.clear()
    parts = [LastCheckpoint(every_n_steps=100, keep=1), StopOnRequest(), Validated()]
    fit(tmp_path, *parts, validate_every=2, resume=True)
    assert validated == [2, 4, 5]


def test_a_run_that_nobody_asks_goes_on(tmp_path: Path):
    stop = StopOnRequest()
    trainer, _ = fit(tmp_path, stop)
    assert (stop.reason, trainer.global_step) == (0, 5)


def test_ctrl_c_twice_leaves_at_once(tmp_path: Path):
    with pytest.raises(Stopped):
        fit(tmp_path, Ask(signal.SIGINT, 2), Ask(signal.SIGINT, 2), StopOnRequest())


def test_after_training_nothing_holds_a_signal_back(tmp_path: Path):
    fit(tmp_path, StopOnRequest())
    with pytest.raises(Stopped):
        signal.raise_signal(signal.SIGTERM)


def test_what_was_asked_after_the_last_step_is_not_forgotten(tmp_path: Path):
    ask = Ask(signal.SIGTERM, 5, "on_train_end")
    with pytest.raises(Stopped) as left:
        fit(tmp_path, ask, StopOnRequest(), LastCheckpoint(every_n_steps=100, keep=1))
    assert left.value.code == 143
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5


class Steps(L.Callback):
    """Remembers how many steps were made, and validations."""

    def __init__(self) -> None:
        self.steps, self.validations = 0, 0

    def on_train_batch_end(self, *args: Any) -> None:
        self.steps += 1

    def on_validation_end(self, *args: Any) -> None:
        self.validations += 1


@pytest.mark.parametrize("hook", ["on_validation_start", "on_validation_batch_start"])
def test_a_validation_is_left_at_once(tmp_path: Path, hook: str):
    """Not before all callbacks have had their `on_validation_start`, where the run is saved."""
    seen = Steps()
    with pytest.raises(Stopped) as left:
        fit(tmp_path, StopOnRequest(), Ask(signal.SIGTERM, 2, hook), seen, validate_every=2)
    assert left.value.code == 143
    assert (seen.steps, seen.validations) == (2, 0)


def test_after_a_validation_steps_are_finished_again(tmp_path: Path):
    seen, stop = Steps(), StopOnRequest()
    fit(tmp_path, stop, Ask(signal.SIGTERM, 3), seen, validate_every=2)
    assert (seen.steps, seen.validations) == (4, 1)  # the one that was due then is left out
    assert stop.reason == signal.SIGTERM


class Handlers(L.Callback):
    """Remembers who hears SIGTERM in training."""

    def on_train_start(self, *args: Any) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)


def test_lightning_leaves_signals_alone(tmp_path: Path):
    heard = Handlers()
    fit(tmp_path, heard)
    assert heard.handler == signal.getsignal(signal.SIGTERM) == stop_requests._receive
