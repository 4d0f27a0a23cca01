"""Entities are counted as conlleval and seqeval count them, exactly over batches."""

import math
import random
from collections.abc import Sequence

import pytest
import torch

from everytoken.corpora.schemes import Entity, entities
from everytoken.training.entities import Entities
from everytoken.training.evaluation_metrics import EvaluationMetrics
from everytoken.training.metrics import MaskedAccuracy

# True tags, predicted tags, and F1, precision and recall that seqeval 1.2.2 gives for them
# (micro average). Sentences are separated by bars; many tags don't follow their scheme.
SEQEVAL: list[tuple[str, str, Sequence[float]]] = [
    (
        "I-LOC I-LOC | B-LOC I-LOC | I-LOC O I-LOC O",
        "I-PER I-LOC | B-LOC I-PER | I-LOC O I-LOC B-PER",
        (0.363636, 0.285714, 0.5),
    ),
    (
        "B-LOC S-LOC E-LOC O B-PER B-LOC | O I-LOC O I-LOC S-PER E-LOC E-LOC | S-PER B-LOC E-PER "
        "B-PER",
        "B-LOC S-LOC E-LOC I-LOC B-PER E-PER | O I-LOC O I-LOC O B-LOC E-PER | B-PER I-PER I-LOC "
        "B-PER",
        (0.538462, 0.583333, 0.5),
    ),
    (
        "I-PER | I-LOC I-PER O I-PER O I-PER O | I-PER",
        "I-PER | I-LOC I-PER O I-PER O I-PER I-PER | I-PER",
        (0.833333, 0.833333, 0.833333),
    ),
    ("B-LOC | O | I-LOC", "B-LOC | I-PER | I-LOC", (0.8, 0.666667, 1.0)),
    (
        "I-PER E-PER B-LOC I-LOC E-PER | B-PER E-PER B-LOC E-LOC I-LOC S-LOC I-LOC | E-PER E-LOC "
        "I-LOC E-LOC",
        "I-PER E-PER B-LOC I-LOC E-PER | S-LOC E-PER I-PER E-LOC I-LOC S-LOC S-LOC | E-PER E-LOC "
        "I-LOC E-LOC",
        (0.75, 0.692308, 0.818182),
    ),
    (
        "I-LOC I-PER O | B-PER B-PER O | O B-PER B-PER B-LOC B-PER",
        "O I-PER O | B-PER B-PER O | O B-PER B-PER O B-PER",
        (0.857143, 1.0, 0.75),
    ),
]


def rows(text: str, labels: list[str]) -> list[list[int]]:
    return [[labels.index(tag) for tag in row.split()] for row in text.split("|")]


def labels_of(*texts: str) -> list[str]:
    return sorted({tag for text in texts for tag in text.split()} - {"|"})


@pytest.mark.parametrize(("targets", "predictions", "right"), SEQEVAL)
def test_values_are_seqevals(targets: str, predictions: str, right: Sequence[float]) -> None:
    labels = labels_of(targets, predictions)
    metric = Entities(labels)
    for predicted, expected in zip(rows(predictions, labels), rows(targets, labels), strict=True):
        metric.update([predicted], [expected])  # in batches of one
    found = metric.compute()
    assert [float(found[name]) for name in ("f1", "precision", "recall")] == pytest.approx(
        right, abs=1e-6
    )


def test_each_kind_is_counted_by_itself() -> None:
    labels = ["O", "B-PER", "I-PER", "B-LOC", "B-DAY"]
    metric = Entities(labels)
    metric.update(
        rows("B-PER I-PER O B-LOC | O B-PER", labels), rows("B-PER I-PER O B-PER | O O", labels)
    )
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found["f1/PER"] == pytest.approx(2 * 1 / (2 + 2))
    assert (found["precision/PER"], found["recall/PER"]) == (0.5, 0.5)
    assert (found["f1/LOC"], found["precision/LOC"], found["recall/LOC"]) == (0, 0, 0)
    assert math.isnan(found["f1/DAY"])  # there is none
    assert math.isnan(found["recall/DAY"])
    assert (found["precision"], found["recall"]) == (pytest.approx(1 / 3), 0.5)
    assert list(found) == metric.names


def test_batches_and_ranks_make_no_difference() -> None:
    draw = random.Random(0)
    labels = ["O", *(f"{part}-{kind}" for part in "BIES" for kind in ("X", "Y"))]
    pairs = []
    for _ in range(40):
        expected = [draw.randrange(len(labels)) for _ in range(draw.randint(0, 8))]
        wrong = [draw.randrange(len(labels)) for _ in expected]
        pairs.append(([draw.choice(two) for two in zip(expected, wrong, strict=True)], expected))
    whole = Entities(labels)
    whole.update(*map(list, zip(*pairs, strict=True)))
    ranks = [Entities(labels), Entities(labels)]
    for i, (predicted, expected) in enumerate(pairs):
        ranks[i % 3 == 0].update([predicted], [expected])
    ranks[0].counts += ranks[1].counts  # dist_reduce_fx="sum"
    assert all(torch.equal(whole.compute()[name], ranks[0].compute()[name]) for name in whole.names)

    def found(row: list[int]) -> set[Entity]:
        return {*entities([labels[id_] for id_ in row])}

    right = sum(len(found(p) & found(t)) for p, t in pairs)
    every = sum(len(found(p)) + len(found(t)) for p, t in pairs)
    assert float(whole.compute()["f1"]) == 2 * right / every


@pytest.mark.parametrize(
    ("labels", "warns"),
    [(["NOUN", "VERB"], False), (["O", "PER"], False), (["B-X", "O", "Misc"], True)],
)
def test_tags_without_a_scheme_have_no_entities(
    labels: list[str], warns: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    metric = Entities(labels)
    metric.update([[0, 1]], [[1, 1]])
    assert (metric.names, metric.compute()) == ([], {})
    assert ("entities aren't counted: Misc" in capsys.readouterr().out) is warns


def test_several_values_of_one_metric_are_logged_and_can_be_watched() -> None:
    more = {"entities": Entities(["O", "B-X"]), "top": MaskedAccuracy(top_k=1)}
    metrics = EvaluationMetrics(more, generates=False)
    assert metrics.reads_sequences
    assert metrics.reads_logits
    metrics.update_sequences([[1, 0]], [[1, 1]])
    assert metrics.names[3:] == [
        *("f1", "precision", "recall", "f1/X", "precision/X", "recall/X"),
        "top",
    ]
    assert list(metrics.values()) == metrics.names
    assert float(metrics.values()["recall/X"]) == 0.5
    assert metrics.higher_is_better("f1/X") is True
    metrics.reset()
    assert math.isnan(metrics.values()["f1"])


@pytest.mark.bad_input
def test_two_metrics_of_one_name_are_refused() -> None:
    more = {"f1": MaskedAccuracy(), "entities": Entities(["O", "B-X"])}
    with pytest.raises(ValueError, match="two metrics are called f1"):
        EvaluationMetrics(more, generates=False)
