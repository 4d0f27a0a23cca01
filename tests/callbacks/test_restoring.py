"""A fit that goes on from a checkpoint does what is left to do, no more and no less."""

from collections.abc import Callable
from functools import partial
from math import cos, pi
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR

from everytoken.callbacks.last_checkpoint import LastCheckpoint
from everytoken.callbacks.stop import StopOnRequest
from everytoken.callbacks.throughput import Throughput
from everytoken.errors import UserError
from everytoken.run.checkpoint_file import read
from everytoken.run.directory import Run
from everytoken.run.metrics_file import MetricsFile
from everytoken.run.metrics_reader import read_table
from everytoken.training.module import TokenModule
from everytoken.training.optim import by_name
from everytoken.training.schedule import constant, warmup_cosine
from support import nonfinite_jobs
from support.fitting import STEPS, fit, make_module


class Journal(L.Callback):
    """Writes down what happens: ("step" or "validation", optimizer steps made by then)."""

    def __init__(self, break_at: tuple[str, int] | None = None) -> None:
        self.lines: list[tuple[str, int]] = []
        self.break_at = break_at

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.break_off("step", trainer.global_step + 1)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.lines.append(("step", trainer.global_step))

    def on_validation_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.break_off("validation", trainer.global_step)

    def on_validation_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.lines.append(("validation", trainer.global_step))

    def break_off(self, *place: str | int) -> None:
        if place == self.break_at:
            raise ConnectionError("broken off")


def last_of(folder: Path) -> dict[str, Any]:
    return read(folder / "checkpoints" / "last.ckpt")


EVENTS = [
    *(("step", 1), ("step", 2), ("validation", 2)),
    *(("step", 3), ("step", 4), ("validation", 4)),
    *(("step", 5), ("validation", 5)),
]


def ending() -> list[L.Callback]:
    """What a run has to end and to go on."""
    return [LastCheckpoint(1, 1), StopOnRequest()]


@pytest.mark.parametrize("place", EVENTS, ids=lambda place: f"{place[0]} {place[1]}")
def test_what_was_broken_off_is_made_again_and_nothing_else(tmp_path: Path, place: tuple[str, int]):
    """Every two steps a validation, and after the last; broken off at each place in turn."""
    trainer, uninterrupted = fit(tmp_path / "one", *ending(), validate_every=2)
    before, after = Journal(place), Journal()
    with pytest.raises(ConnectionError):
        fit(tmp_path / "two", *ending(), before, validate_every=2)
    if before.lines:
        goes_on, resumed = fit(tmp_path / "two", *ending(), after, validate_every=2, resume=True)
        assert before.lines + after.lines == EVENTS
        assert logging_clock(goes_on) == logging_clock(trainer)
        for name, weight in uninterrupted.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], weight)
    assert before.lines == EVENTS[: EVENTS.index(place)]


def logging_clock(trainer: L.Trainer) -> int:
    """By which Lightning decides which steps are logged."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


@pytest.mark.slow
def test_on_several_ranks_buffers_and_steps_that_were_left_out_go_on_too(tmp_path: Path):
    """Each rank feeds its running means with its own micro-batches; a checkpoint has rank 0's."""
    ranks = nonfinite_jobs.run(tmp_path, "resumed_job")
    for strategy in ("ddp", "fsdp"):
        first, losses = ranks[0][strategy]["at once"]
        for found in ranks:
            for way, validations in (("at once", 3), ("resumed", 2)):
                state, measured = found[strategy][way]
                assert all(map(torch.equal, state, first))
                assert measured == losses[-validations:]


def test_no_value_is_logged_again_as_a_later_steps(tmp_path: Path):
    """The second and the fourth step are logged; the fifth is the last, and isn't."""
    logger = MetricsFile(Run(tmp_path))
    fit(tmp_path, LastCheckpoint(1, 1), StopOnRequest(), validate_every=2, logger=logger)
    rows = read_table(tmp_path / "metrics.csv")[1]
    assert [row["step"] for row in rows if row.get("train/loss")] == ["2", "4"]
    assert [row["step"] for row in rows if row.get("val/loss")] == ["2", "4", "5"]


class Heights(L.Callback):
    """Logs a score that gets better."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.log("height", float(trainer.global_step))


@pytest.mark.parametrize(
    ("place", "save_every", "settings"),
    [
        (("validation", 2), 1, {"every_n_train_steps": 2}),
        (("step", 3), 4, {"every_n_train_steps": 2}),
        (("step", 4), 4, {}),
    ],
)
def test_lightning_keeps_the_same_best_under_the_same_names(
    tmp_path: Path, place: tuple[str, int], save_every: int, settings: dict[str, Any]
):
    """Broken off after its files were written, and before, or after, last.ckpt knows of them."""

    def folder(name: str) -> Path:
        return tmp_path / name / "checkpoints"

    def fit_on(name: str, *more: L.Callback, resume: bool = False) -> dict[str, Any]:
        best = ModelCheckpoint(monitor="height", mode="max", save_top_k=1, **settings)
        callbacks = (LastCheckpoint(save_every, 1), Heights(), best, *more)
        fit(tmp_path / name, *callbacks, validate_every=2, resume=resume)
        [state] = [v for k, v in last_of(tmp_path / name)["callbacks"].items() if "Model" in k]
        found = {"state": state, "files": sorted(path.name for path in folder(name).iterdir())}
        return eval(str(found).replace(str(tmp_path / name), ""), {"tensor": float})

    expected = fit_on("one")
    with pytest.raises(ConnectionError):
        fit_on("two", Journal(place))
    assert fit_on("two", resume=(folder("two") / "last.ckpt").exists()) == expected
    for path in folder("two").glob("*step=*.ckpt"):
        assert path.stem == f"epoch=0-step={read(path)['global_step']}"


def test_lightning_logs_the_learning_rate_once_a_step(tmp_path: Path):
    """Not when a run goes on, too."""

    def fit_on(name: str, *more: L.Callback, resume: bool = False) -> list[dict[str, str]]:
        logger = MetricsFile(Run(tmp_path / name))
        callbacks = (LastCheckpoint(1, 1), LearningRateMonitor(), *more)
        fit(tmp_path / name, *callbacks, resume=resume, logger=logger)
        return read_table(tmp_path / name / "metrics.csv")[1]

    expected = fit_on("one")
    rated = [row for row in expected if any(v and k.startswith("lr-SGD") for k, v in row.items())]
    assert [row["step"] for row in rated] == ["1", "3"]
    with pytest.raises(ConnectionError):
        fit_on("two", Journal(("step", 3)))
    assert fit_on("two", resume=True) == expected


class Score(L.Callback):
    """Logs a score that never gets better."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.log("score", 1.0)


def stopping_early(patience: int) -> list[L.Callback]:
    return [LastCheckpoint(1, 1), Score(), EarlyStopping("score", patience=patience)]


def test_a_run_that_has_stopped_early_has_stopped(tmp_path: Path):
    trainer, _ = fit(tmp_path, *stopping_early(1), validate_every=1)
    assert trainer.global_step == 2
    journal = Journal()
    fit(tmp_path, *stopping_early(1), journal, validate_every=1, resume=True)
    assert journal.lines == []
    assert last_of(tmp_path)["global_step"] == 2


def test_patience_follows_the_config_and_its_count_the_checkpoint(tmp_path: Path):
    fit(tmp_path, *stopping_early(9), validate_every=1, stop=2)
    trainer, _ = fit(tmp_path, *stopping_early(2), validate_every=1, resume=True)
    assert trainer.global_step == 3  # one of the two was waited before


def test_a_finished_fit_that_may_be_longer_goes_on(tmp_path: Path):
    fit(tmp_path, LastCheckpoint(1, 1), stop=3)
    journal = Journal()
    fit(tmp_path, LastCheckpoint(1, 1), journal, stop=STEPS, resume=True)
    assert journal.lines == [("step", 4), ("step", 5)]


@pytest.mark.bad_input
def test_a_fit_can_not_end_before_its_checkpoint(tmp_path: Path):
    fit(tmp_path, LastCheckpoint(1, 1), stop=3)
    with pytest.raises(UserError, match=r"is of step 3, so trainer\.max_steps can't be 2: raise"):
        fit(tmp_path, LastCheckpoint(1, 1), stop=2, resume=True)


def with_optimizer(
    lr: float,
    decay: float = 0.1,
    schedule: Callable[..., LRScheduler] | None = None,
) -> TokenModule:
    module = make_module()
    module.make_optimizer = lambda groups: torch.optim.AdamW(groups, lr=lr, weight_decay=decay)
    module.make_scheduler = schedule or module.make_scheduler
    return module


def group_of(trainer: L.Trainer) -> dict[str, Any]:
    """A parameter group that decays."""
    return trainer.optimizers[0].param_groups[0]


def test_settings_of_the_optimizer_follow_the_config(tmp_path: Path):
    """The state that torch saves holds the old ones too."""
    fit(tmp_path, LastCheckpoint(1, 1), stop=3, module=with_optimizer(0.1))
    changed = with_optimizer(0.01, decay=0.3)
    trainer, _ = fit(tmp_path, LastCheckpoint(1, 1), resume=True, module=changed)
    group = group_of(trainer)
    assert (group["lr"], group["initial_lr"], group["weight_decay"]) == (0.01, 0.01, 0.3)
    [state] = [trainer.optimizers[0].state[p] for p in group["params"][:1]]
    assert state["step"] == STEPS  # the moments are the checkpoint's


def test_settings_of_groups_follow_the_config_and_their_members_stay(tmp_path: Path):
    def module(*patterns: dict[str, Any]) -> TokenModule:
        made = with_optimizer(0.1)
        made.parameter_groups = lambda model: by_name(model, patterns)
        return made

    def resumed(*patterns: dict[str, Any], stop: int = STEPS) -> L.Trainer:
        parts = [LastCheckpoint(1, 1)]
        return fit(tmp_path, *parts, stop=stop, resume=True, module=module(*patterns))[0]

    half = {"name": "embedding.*", "lr_factor": 0.5}
    fit(tmp_path, LastCheckpoint(1, 1), stop=2, module=module(half))
    assert resumed(half, stop=3).optimizers[0].param_groups[-1]["lr"] == 0.05
    changed = {"name": "embedding.*", "lr_factor": 0.25, "weight_decay": 0.7}
    *_, group = resumed(changed, stop=4).optimizers[0].param_groups
    assert (group["lr"], group["weight_decay"]) == (0.025, 0.7)
    without = {"name": "embedding.*", "weight_decay": 0.7}
    groups = resumed(without, stop=5).optimizers[0].param_groups
    assert {group["lr"] for group in groups} == {0.1}
    for others in ([], [{"name": "head.*", "lr_factor": 0.5}]):
        with pytest.raises(UserError, match="parameter_groups makes other groups than when"):
            resumed(*others, stop=6)


@pytest.mark.bad_input
def test_a_schedule_that_is_not_changed_goes_on(tmp_path: Path):
    def halving(optimizer: Optimizer, total_steps: int) -> LRScheduler:
        return StepLR(optimizer, 1, gamma=0.5)

    def resumed(lr: float) -> L.Trainer:
        module = with_optimizer(lr, schedule=halving)
        return fit(tmp_path, LastCheckpoint(1, 1), resume=True, module=module)[0]

    fit(tmp_path, LastCheckpoint(1, 1), stop=3, module=with_optimizer(1.0, schedule=halving))
    with pytest.raises(UserError, match=r"optimizer\.lr can't be changed on the way with StepLR"):
        resumed(2.0)
    assert group_of(resumed(1.0))["lr"] == 0.5**STEPS


def rates_of(
    folder: Path, make: Callable[..., LRScheduler], first: int, then: int, fraction: float = 0.4
) -> tuple[list[float], float]:
    """Learning rates after a run of `first` steps, and of it when it goes on to `then`.

    The next one, were it not for the other number of steps, and all that come.
    """
    rates: list[float] = []

    class Rates(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
            rates.append(group_of(trainer)["lr"])

    def module(steps: int, warmup_fraction: float) -> TokenModule:
        made = with_optimizer(1.0, schedule=partial(make, warmup_fraction=warmup_fraction))
        made.total_steps = steps
        return made

    ended = fit(folder, LastCheckpoint(1, 1), stop=min(first, 3), module=module(first, 0.4))[0]
    parts = [LastCheckpoint(1, 1), Rates()]
    fit(folder, *parts, stop=then, resume=True, module=module(then, fraction))
    return rates, group_of(ended)["lr"]


cosine = partial(warmup_cosine, final_fraction=0.0)


@pytest.mark.parametrize("first", [3, 5])
@pytest.mark.parametrize("make", [constant, cosine], ids=["constant", "cosine"])
def test_a_longer_run_has_the_warm_up_that_it_began_with(
    tmp_path: Path, make: Callable[..., LRScheduler], first: int, capsys: pytest.CaptureFixture[str]
):
    (rate, *_), before = rates_of(tmp_path, make, first, then=9)
    told = capsys.readouterr().out
    if make is constant:
        assert rate == before == 1.0
        assert "goes on as it was: with 9 steps" in told
        assert "the learning rate of step 4 is 1" in told
    else:
        warmup = {3: 1, 5: 2}[first]
        assert rate == pytest.approx(0.5 + 0.5 * cos(pi * (4 - warmup) / (9 - warmup)))
        assert f"learning rate of step 4 {before:.3g} -> {rate:.3g}" in told
        assert f"over 9 steps and no longer over {first}" in told


def test_a_schedule_that_will_be_another_is_told_in_the_warm_up_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (rate, *_), before = rates_of(tmp_path, cosine, 20, then=10)
    assert rate == before == 0.5  # the fourth of eight
    assert "learning rate of step 10 0.933 -> 0:" in capsys.readouterr().out


def test_another_warm_up_counts_anew(tmp_path: Path):
    rates, before = rates_of(tmp_path, constant, 5, then=10, fraction=1.0)
    assert before == 1.0
    assert rates == pytest.approx([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])


@pytest.mark.bad_input
def test_a_schedule_that_can_not_be_longer_is_refused_before_a_step(tmp_path: Path):
    def module(steps: int) -> TokenModule:
        made = with_optimizer(1.0, schedule=partial(OneCycleLR, max_lr=1.0))
        made.total_steps = steps
        return made

    fit(tmp_path, LastCheckpoint(1, 1), stop=3, module=module(3))
    with pytest.raises(UserError, match="OneCycleLR is laid out over 3 steps, and can't go on"):
        fit(tmp_path, LastCheckpoint(1, 1), stop=5, resume=True, module=module(5))
    assert last_of(tmp_path)["global_step"] == 3


def test_without_averaging_a_run_goes_on_with_the_weights_that_were_trained(tmp_path: Path):
    plain = fit(tmp_path / "plain", LastCheckpoint(1, 1))[1]
    averaging = EMAWeightAveraging(decay=0.9)
    fit(tmp_path / "averaged", LastCheckpoint(1, 1), averaging, stop=3)
    resumed = fit(tmp_path / "averaged", LastCheckpoint(1, 1), resume=True)[1]
    for name, weight in plain.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight)


def test_counts_go_on(tmp_path: Path):
    """Those since the last logged step, too: the second is logged, the third is not."""
    fit(tmp_path, LastCheckpoint(1, 1), Throughput(), stop=3)
    counted = last_of(tmp_path)["throughput"]
    measured = Throughput()
    trainer, _ = fit(tmp_path, LastCheckpoint(1, 1), measured, resume=True)
    assert measured.total_real == STEPS * (3 + 5 + 2)
    assert measured.total_computed == STEPS * (3 + 5 + 2 + 1)
    assert trainer.callback_metrics["real_tokens"] == 4 * (3 + 5 + 2)
    assert measured.total_seconds > counted["total"][2] > 0
    assert measured.fit_seconds > counted["fit_seconds"] > 0
