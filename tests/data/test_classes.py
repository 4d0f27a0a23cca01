"""Texts → one class each, or any of several."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from everytoken.batch import IGNORE_INDEX
from everytoken.data.classes import (
    MultiLabelClassification,
    SequenceClassification,
    shortened,
)
from everytoken.data.objective import ExampleKey, Long
from everytoken.errors import UserError
from everytoken.tokenizer.learned import train_char

TOKENIZER = train_char(["abcdefgh "])
TOKENIZER.labels = ["no", "perhaps", "yes"]
BOS, EOS = TOKENIZER.special.bos, TOKENIZER.special.eos


def objective(
    max_tokens: int = 20, long: Long = "refuse", second: str | None = None
) -> SequenceClassification:
    return SequenceClassification(
        TOKENIZER.special, len(TOKENIZER), TOKENIZER, max_tokens, long, second
    )


def ids(text: str) -> list[int]:
    return TOKENIZER.encode([text])[0]


def record(of: SequenceClassification, labels: str, *texts: str) -> Any:
    example = dict(zip(("text", "second"), texts, strict=False)) | {"labels": labels}
    [found] = of.encode([example], lambda i: f"val example {i + 7}")
    return found


def test_the_class_is_learned_at_the_first_position_and_nowhere_else() -> None:
    of = objective()
    [item] = of.items(record(of, '["yes"]', "abc"))
    example = of.example(item, ExampleKey(0, 0, 0))
    assert example.input_ids.tolist() == [BOS, *ids("abc"), EOS]
    assert example.labels.tolist() == [2] + 4 * [IGNORE_INDEX]
    assert of.real_count(item) == 5
    assert item.reference
    assert item.reference.text == "yes"


def test_a_second_text_follows_with_an_end_of_its_own() -> None:
    of = objective(second="answer")
    [item] = of.items(record(of, '["no"]', "abc", "de"))
    assert item.ids.tolist() == [BOS, *ids("abc"), EOS, *ids("de"), EOS]


@pytest.mark.parametrize("texts", [("abcdefgh",), ("abcdefgh", "ab"), ("ab", "abcdefgh")])
def test_what_is_too_long_is_cut_at_its_end_and_keeps_its_class(texts: tuple[str, ...]) -> None:
    of = objective(6, "truncate", "b" if len(texts) > 1 else None)
    found = record(of, '["perhaps"]', *texts)
    assert of.is_too_long(found)
    [item] = of.items(found)
    assert len(item.ids) == 6
    assert item.ids[0] == BOS
    assert (item.ids == EOS).sum() == len(texts)
    assert of.example(item, ExampleKey(0, 0, 0)).labels[0] == 1
    assert not objective(13).is_too_long(found)


@pytest.mark.parametrize(
    ("lengths", "room", "kept"),
    [
        ((9, 2), 6, (4, 2)),
        ((2, 9), 6, (2, 4)),
        ((9, 9), 7, (3, 4)),
        ((9,), 4, (4,)),
        ((2, 3), 9, (2, 3)),
    ],
)
def test_the_longest_is_cut_first(lengths: Sequence[int], room: int, kept: Sequence[int]) -> None:
    found = shortened([[*range(length)] for length in lengths], room)
    assert sorted(map(len, found)) == sorted(kept)
    assert sum(map(len, found)) == min(room, sum(lengths))


def test_a_line_is_asked_as_it_was_trained_and_told_with_its_probability() -> None:
    question = objective(second="b").question("abc\tde", "line 1")
    assert question.input_ids.tolist() == [BOS, *ids("abc"), EOS, *ids("de"), EOS]
    assert (question.labels != IGNORE_INDEX).tolist() == [True, *7 * [False]]
    assert question.tell(np.array([[0.1, 0.2, 0.7]])) == "yes\t0.7000"
    assert len(objective(6, "truncate").question("abcdefgh", "line 1").input_ids) == 6


def several(threshold: float = 0.5) -> MultiLabelClassification:
    parts = (TOKENIZER.special, len(TOKENIZER), TOKENIZER)
    return MultiLabelClassification(*parts, 20, "refuse", threshold=threshold)


@pytest.mark.parametrize(
    ("labels", "told", "classes"),
    [
        ('["yes","no"]', "no, yes", [1, 0, 1]),
        ('["perhaps"]', "perhaps", [0, 1, 0]),
        ("[]", "", [0, 0, 0]),
    ],
)
def test_a_text_may_be_of_any_number_of_classes(labels: str, told: str, classes: list[int]) -> None:
    of = several()
    [item] = of.items(record(of, labels, "abc"))
    example = of.example(item, ExampleKey(0, 0, 0))
    assert example.classes is not None
    assert example.classes.tolist() == classes
    assert (example.labels != IGNORE_INDEX).tolist() == [True, *4 * [False]]
    assert item.reference
    assert item.reference.text == told


def test_classes_above_the_threshold_are_told_the_most_likely_first() -> None:
    row = np.array([[0.6, 0.1, 0.9]])
    assert several().question("abc", "line 1").tell(row) == "yes\t0.9000\tno\t0.6000"
    assert several(0.7).question("abc", "line 1").tell(row) == "yes\t0.9000"
    assert several(0.95).question("abc", "line 1").tell(row) == ""


@pytest.mark.bad_input
def test_mistakes_are_told_with_their_place() -> None:
    with pytest.raises(UserError, match=r"val example 7 has the label 'maybe', and no training"):
        record(objective(), '["maybe"]', "abc")
    with pytest.raises(UserError, match=r"val example 7 has 2 labels \(no, yes\).* task=multi_l"):
        record(objective(), '["no","yes"]', "abc")
    with pytest.raises(UserError, match=r"val example 7 has 0 labels .*must have one: task=multi"):
        record(objective(), "[]", "abc")
    with pytest.raises(UserError, match="'maybe', and no training example has it"):
        record(several(), '["no","maybe"]', "abc")
    with pytest.raises(UserError, match=r"val example 7 has a second text, and .*second=null"):
        record(objective(), '["no"]', "abc", "de")
    with pytest.raises(UserError, match=r"val example 7 has no second text, which .* data.second"):
        record(objective(second="b"), '["no"]', "abc")
    with pytest.raises(UserError, match="line 3 must be two texts with a tab between"):
        objective(second="b").question("abc", "line 3")
