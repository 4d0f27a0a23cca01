"""The job behind `python -m train`: what would fail late is told first."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from everytoken.callbacks.stop import StopOnRequest
from everytoken.commands.train import check_monitors, conclusion
from everytoken.errors import UserError
from everytoken.run.directory import Run
from everytoken.training.metrics import EvaluationMetrics


@pytest.mark.bad_input
def test_a_callback_can_watch_what_is_logged_only() -> None:
    module: Any = SimpleNamespace(val_metrics=EvaluationMetrics({}, generates=True))
    fine: list[L.Callback] = [StopOnRequest(), ModelCheckpoint()]
    fine += [EarlyStopping(monitor=name) for name in ("val/exact_match", "train/loss")]
    check_monitors(fine, module)
    with pytest.raises(UserError, match=r"ModelCheckpoint can't have monitor=val/los: .*val/loss"):
        check_monitors([*fine, ModelCheckpoint(monitor="val/los")], module)
    with pytest.raises(UserError, match="monitor=val/bleu"):
        check_monitors([EarlyStopping(monitor="val/bleu")], module)


def test_what_it_says_at_the_end_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    throughput = {"throughput/real_tokens_per_second": 1.0, "throughput/fill": 1.0}
    told = conclusion(Run(tmp_path / "a run"), throughput | {"seconds/fit": 1.0}, best=True)
    assert told.renderables[-1] == "try it: python -m generate 'run=a run'"
