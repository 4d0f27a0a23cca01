"""Macro F1, against torchmetrics' own of all logits together."""

from itertools import pairwise

import pytest
import torch
from torchmetrics.classification import MulticlassF1Score

from everytoken.training.evaluation_metrics import EvaluationMetrics
from everytoken.training.macro_f1 import MacroF1

NAMES = ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("seen", [5, 3, 1], ids=["all", "some", "one"])
def test_it_is_that_of_all_batches_together(seen: int) -> None:
    chance = torch.Generator().manual_seed(seen)
    logits = torch.randn(60, 5, generator=chance)
    logits[:, seen:] = -9.0
    targets = torch.randint(seen, (60,), generator=chance)
    metric, right = MacroF1(NAMES), MulticlassF1Score(5, average="macro")
    for begin, end in pairwise([0, 1, 1, 20, 60]):
        metric.update(logits[begin:end], targets[begin:end])
    right.update(logits, targets)
    assert float(metric.compute()) == pytest.approx(float(right.compute()), abs=1e-6)
    cells = metric.details()["confusion"]
    assert sum(count for _, _, count in cells) == 60
    hits = sum(count for target, predicted, count in cells if target == predicted)
    assert hits == int((logits.argmax(-1) == targets).sum())


def test_of_nothing_there_is_none() -> None:
    metric = MacroF1(NAMES)
    metric.update(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
    assert metric.compute().isnan()
    assert metric.details() == {"confusion": []}


def test_it_can_be_watched_and_shows_its_cells() -> None:
    metrics = EvaluationMetrics({"macro_f1": MacroF1(["no", "yes"])}, generates=False)
    assert "macro_f1" in metrics.names
    assert metrics.higher_is_better("macro_f1")
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    metrics.update_tokens(logits, torch.tensor([0, 0, 1]))
    assert float(metrics.values()["macro_f1"]) == pytest.approx(2 / 3)
    assert metrics.details()["confusion"] == [["no", "no", 1], ["no", "yes", 1], ["yes", "yes", 1]]
