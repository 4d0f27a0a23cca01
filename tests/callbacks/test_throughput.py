"""Speed and fill: what is counted, and when the clock stands still."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest

from everytoken.callbacks.throughput import Throughput
from support.fitting import STEPS, fit, make_module


def test_throughput_counts_every_real_token_once_and_fillers_never(tmp_path: Path):
    measured = Throughput()
    trainer, _ = fit(tmp_path, measured)
    assert measured.total_real == STEPS * (3 + 5 + 2)
    assert measured.total_computed == STEPS * (3 + 5 + 2 + 1)  # the filler's one position is work
    assert measured.total_seconds > 0
    assert trainer.callback_metrics["throughput/fill"] == pytest.approx(10 / 11)
    assert trainer.callback_metrics["real_tokens"] == 4 * (3 + 5 + 2)  # at the last logged step


def test_fill_is_below_one_for_a_model_that_computes_on_padding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("everytoken.model.transformer.Transformer.computes_on_padding", True)
    measured = Throughput()
    fit(tmp_path, measured)
    assert measured.total_real == STEPS * (3 + 5 + 2)
    assert measured.total_computed == STEPS * (2 * 5 + 2 + 1)  # 2 x 5 padded, 1 x 2, a filler of 1


def test_time_for_validation_is_not_training_time(monkeypatch: pytest.MonkeyPatch):
    now = iter([10.0, 11.0, 50.0, 51.5, 52.0])
    monkeypatch.setattr("everytoken.callbacks.throughput.time.perf_counter", lambda: next(now))
    measured = Throughput()
    trainer: Any = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    module = make_module()
    measured.on_train_start(trainer, module)  # 10.0
    measured.on_validation_start(trainer, module)  # 11.0
    measured.on_validation_end(trainer, module)  # 50.0
    measured.on_train_end(trainer, module)  # 51.5
    assert measured.total_seconds == 2.5
