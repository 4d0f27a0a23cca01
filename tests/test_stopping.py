"""A run that is asked to stop."""

import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from everytoken.saving import LastCheckpoint
from everytoken.stopping import StopOnInterrupt
from fitting import fit


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """A job in the background may have been started deaf to it, and Lightning leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class PressCtrlC(L.Callback):
    """Sends SIGINT to this process in a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_finishes_the_step_and_gives_the_signal_back(tmp_path: Path):
    before = signal.getsignal(signal.SIGINT)
    stop = StopOnInterrupt()
    trainer, _ = fit(tmp_path, PressCtrlC(2), stop, LastCheckpoint(every_n_steps=100, keep=1))
    assert stop.signalled == signal.SIGINT
    assert trainer.global_step == 3
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_twice_leaves_at_once(tmp_path: Path):
    with pytest.raises(SystemExit):
        fit(tmp_path, PressCtrlC(2), PressCtrlC(2), StopOnInterrupt())
