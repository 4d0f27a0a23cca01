"""Texts of several classes: the loss is transformers' own, F1 is that of all decisions together."""

from itertools import pairwise
from typing import Literal

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from everytoken.batch import IGNORE_INDEX
from everytoken.data.collate import Example, collate
from everytoken.errors import UserError
from everytoken.training.evaluation import by_row
from everytoken.training.loss import target_sums
from everytoken.training.multi_label import MultiLabelF1
from support.helpers import VOCABULARY, make_examples

NAMES = ["a", "b", "c", "d"]


def made(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits, and which classes are right; of the second text none is, of the third all."""
    chance = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, len(NAMES), generator=chance)
    targets = (torch.rand(count, len(NAMES), generator=chance) < 0.4).long()
    targets[1:3] = torch.tensor([[0], [1]])
    return logits, targets


def test_the_mean_loss_is_that_of_transformers_however_texts_are_cut() -> None:
    examples = make_examples([7, 2, 5], with_source=False)
    _, classes = made(3)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        id2label=dict(enumerate(NAMES)),
        problem_type="multi_label_classification",
    )
    network: nn.Module = transformers.BertForSequenceClassification(config).eval()
    rows = []
    for example, own in zip(examples, classes, strict=True):
        first = example.labels.copy()
        first[0], first[1:] = 0, IGNORE_INDEX
        rows.append(Example(example.input_ids, first, classes=own.numpy()))
    batch = collate(rows, 0)
    mask = batch.is_real.long()
    whole = network(batch.input_ids, attention_mask=mask, labels=batch.targets.float())
    sums = target_sums(whole.logits, nn.Identity(), batch.targets)
    assert batch.target_count == 3
    assert float(sums.loss / batch.target_count) == pytest.approx(float(whole.loss), rel=1e-6)
    parts = [
        target_sums(whole.logits[[i]], nn.Identity(), collate([row], 0).targets)
        for i, row in enumerate(rows)
    ]
    assert sum(float(part.loss) for part in parts) == pytest.approx(float(sums.loss), rel=1e-12)
    assert sum(int(part.correct) for part in parts) == int(sums.correct)


def test_hits_are_whole_answers_and_smoothing_is_over_yes_and_no() -> None:
    logits, targets = made(60)
    sums = target_sums(logits, nn.Identity(), targets, label_smoothing=0.1)
    assert int(sums.correct) == int(((logits > 0) == (targets == 1)).all(1).sum()) > 0
    smooth = torch.where(targets == 1, 0.95, 0.05)
    right = F.binary_cross_entropy_with_logits(logits.double(), smooth.double()) * 60
    assert float(sums.loss) == pytest.approx(float(right), rel=1e-6)


def test_a_z_loss_is_refused() -> None:
    with pytest.raises(UserError, match="no softmax: set z_loss=0"):
        target_sums(*made(4)[:1], nn.Identity(), made(4)[1], z_loss=0.1)


@pytest.mark.parametrize("threshold", [0.5, 0.8])
@pytest.mark.parametrize("average", ["micro", "macro"])
def test_f1_is_that_of_all_batches_together(
    average: Literal["micro", "macro"], threshold: float
) -> None:
    logits, targets = made(60)
    logits = logits.sigmoid() if threshold == 0.5 else logits  # all between 0 and 1: logits still
    targets[:, 3] = 0
    metric = MultiLabelF1(NAMES, average, threshold)
    for begin, end in pairwise([0, 1, 2, 20, 60]):
        metric.update(logits[begin:end], targets[begin:end])
    told = logits.double().sigmoid() > threshold
    hits, both = (told & (targets == 1)).sum(0), told.sum(0) + targets.sum(0)
    if average == "micro":
        right = 2 * hits.sum() / both.sum()
    else:
        right = (2 * hits / both.clamp(min=1)).mean()
    assert float(metric.compute()) == pytest.approx(float(right), rel=1e-6)
    assert metric.higher_is_better


def test_a_row_is_shown_by_the_classes_that_it_is_of() -> None:
    _, targets = made(3)
    rows = [
        Example(e.input_ids, e.labels.copy(), classes=own.numpy())
        for e, own in zip(make_examples([4, 2, 3], with_source=False), targets, strict=True)
    ]
    for row in rows:
        row.labels[0], row.labels[1:] = 0, IGNORE_INDEX
    batch = collate(rows, 0)
    predicted = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    wanted, found = by_row(batch, predicted)
    assert wanted == [row.nonzero().flatten().tolist() for row in targets]
    assert found == [[1, 2], [], [0]]
