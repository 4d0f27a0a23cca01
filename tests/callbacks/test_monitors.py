"""What is watched is logged, and the way that is better is the metric's own."""

from typing import Any

import lightning as L
import pytest
from hydra.utils import instantiate
from lightning.pytorch.callbacks import EarlyStopping
from omegaconf import OmegaConf
from torchmetrics import Metric

from everytoken.callbacks.monitors import check_monitors, fill_modes
from everytoken.callbacks.stop import StopOnRequest
from everytoken.errors import UserError
from everytoken.training.evaluation_metrics import EvaluationMetrics
from everytoken.training.metrics import Ratio
from everytoken.training.text_metrics import Bleu
from support.helpers import composed


class Silent(Ratio):
    """A metric of one's own that doesn't say which way is better."""


class Rising(Silent):
    """One that does."""

    higher_is_better = True


MORE: dict[str, Metric] = {"bleu": Bleu(), "silent": Silent(), "rising": Rising()}
METRICS = EvaluationMetrics(MORE, generates=True, counts_bytes=True)
DIRECTIONS = {
    **dict.fromkeys(("val/loss", "val/perplexity", "val/bits_per_byte", "train/loss"), "min"),
    **dict.fromkeys(("val/accuracy", "val/exact_match", "val/bleu", "val/rising"), "max"),
    "train/accuracy": "max",
}
UNKNOWN = ("val/silent", "train/gradient_norm")

KINDS = {
    "best_checkpoint": "everytoken.callbacks.BestCheckpoint",
    "early_stopping": "lightning.pytorch.callbacks.EarlyStopping",
    "top": "lightning.pytorch.callbacks.ModelCheckpoint",
}


def made(kind: str, **settings: Any) -> dict[str, L.Callback]:
    """The callback that a config makes, checked as in a run."""
    parts = OmegaConf.create({kind: {"_target_": KINDS[kind], **settings}})
    OmegaConf.set_struct(parts, True)
    fill_modes(parts, METRICS)
    callbacks: dict[str, L.Callback] = {kind: instantiate(parts[kind])}
    check_monitors(callbacks, METRICS)
    return callbacks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("monitor", DIRECTIONS)
def test_the_mode_is_the_metrics_own(kind: str, monitor: str) -> None:
    for settings in ({}, {"mode": None}, {"mode": DIRECTIONS[monitor]}):
        [callback] = made(kind, monitor=monitor, **settings).values()
        assert callback.mode == DIRECTIONS[monitor]  # pyright: ignore
    other = {"min": "max", "max": "min"}[DIRECTIONS[monitor]]
    message = f"callbacks.{kind}.mode={other} would take the worst {monitor} for the best: "
    with pytest.raises(UserError, match=message):
        made(kind, monitor=monitor, mode=other)


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("monitor", UNKNOWN)
def test_where_nobody_knows_the_user_says_it(kind: str, monitor: str) -> None:
    message = f"more of {monitor} is better: add callbacks.{kind}.mode=min or"
    with pytest.raises(UserError, match=message):
        made(kind, monitor=monitor)
    for mode in ("min", "max"):
        assert made(kind, monitor=monitor, mode=mode)[kind].mode == mode  # pyright: ignore


@pytest.mark.bad_input
@pytest.mark.parametrize("monitor", ["val/los", "test/loss", "loss", 3])
def test_only_what_is_logged_can_be_watched(monitor: object) -> None:
    for settings in ({}, {"mode": "min"}):
        with pytest.raises(
            UserError, match=r"callbacks.top.monitor=.* is never logged: .*val/loss"
        ):
            made("top", monitor=monitor, **settings)


def test_what_watches_nothing_needs_no_direction() -> None:
    assert made("top")["top"].monitor is None  # pyright: ignore
    check_monitors({"stop": StopOnRequest()}, METRICS)


@pytest.mark.bad_input
def test_a_mode_in_code_is_checked_too() -> None:
    class Mine(EarlyStopping):
        def __init__(self) -> None:
            super().__init__("val/accuracy")

    with pytest.raises(UserError, match=r"give callbacks\.mine\.mode=max"):
        check_monitors({"mine": Mine()}, METRICS)


def test_all_that_is_known_is_tried_here() -> None:
    """Each metric of evaluation is in the tables above."""
    names = {f"val/{name}" for name in METRICS.names}
    assert names <= {*DIRECTIONS, *UNKNOWN}


def test_no_choice_has_a_direction_of_its_own() -> None:
    for choice in ("default", "early_stopping", "ema", "project"):
        parts = composed(f"callbacks={choice}").callbacks.values()
        assert [part.mode for part in parts if part.get("monitor")].count(None) >= 1
