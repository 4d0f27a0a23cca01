"""The audit of a loss of one's own, which it knows no definition of."""

from pathlib import Path

import pytest

from everytoken.audit import checks_loss, checks_model, checks_step
from everytoken.audit.results import run_checks
from everytoken.audit.subject import Subject
from everytoken.run.directory import Run
from support.auditing import failures, up_to
from support.helpers import composed

CHECKS = [*checks_model.CHECKS, *checks_loss.CHECKS, *checks_step.CHECKS]
SMALL = [
    *("logger=none", "task.max_new_tokens=null", "model.layers=1", "model.width=32"),
    *("model.ffn_width=48", "data.corpus.train_examples=300", "data.corpus.val_examples=40"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("Own", None),
        ("MeanOfMicroBatch", "loss"),
        ("MeanOfSequence", "loss"),
        ("AnIdIsIgnored", "vocabulary"),
        ("DependsOnPadding", "step"),
    ],
)
def test_a_loss_of_ones_own_must_add_up_too(tmp_path: Path, name: str, first: str | None):
    cfg = composed(*SMALL, f"module._target_=support.own_losses.{name}")
    results = run_checks(Subject(Run.create(tmp_path / "run", cfg)), up_to(first, CHECKS))
    assert list(failures(results)) == [first] * (first is not None)
