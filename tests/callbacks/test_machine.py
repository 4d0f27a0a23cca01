"""Use of the machine: logged at logged steps, beside the speed that it is made of."""

from pathlib import Path

import pytest

from everytoken.callbacks.flops import batch_flops
from everytoken.callbacks.machine import GIB, MachineUse, resident_bytes
from everytoken.callbacks.throughput import Throughput
from support.fitting import STEPS, fit, steps


def test_the_share_is_speed_times_flops_of_a_real_token_over_the_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("everytoken.callbacks.machine.measured_peak", lambda *_: 5e9)
    use = MachineUse(0.1)
    trainer, module = fit(tmp_path, Throughput(), use)
    assert use.peak == 5e9
    last_logged = steps()[2:4]  # of five steps, every second is logged
    flops = sum(float(batch_flops(module.model, b)) for step in last_logged for b in step)
    real = sum(b.real_count for step in last_logged for b in step)
    speed = float(trainer.callback_metrics["throughput/real_tokens_per_second"])
    share = float(trainer.callback_metrics["throughput/share_of_peak"])
    assert share == pytest.approx(speed * flops / real / 5e9, rel=1e-5)
    assert STEPS == 5


def test_memory_is_what_the_process_occupies(tmp_path: Path):
    trainer, _ = fit(tmp_path, Throughput(), MachineUse(0.01))
    resident = resident_bytes()
    assert resident is not None
    logged = float(trainer.callback_metrics["memory/resident_gib"])
    assert logged == pytest.approx(resident / GIB, rel=0.2)


def test_a_system_without_proc_tells_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("everytoken.callbacks.machine.STATM", tmp_path / "nothing")
    assert resident_bytes() is None
