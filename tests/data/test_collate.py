"""Padding: what `collate` writes into inputs, labels and sources, and what it leaves alone."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from everytoken.batch import IGNORE_INDEX, Batch, PaddingSide
from everytoken.data.collate import Example, collate, filler
from support.helpers import make_examples

NO = IGNORE_INDEX
SIDES: list[PaddingSide] = ["left", "right"]

PAD, EOS = 0, 1
WORDS = {"我": 2, "是": 3, "学生": 4, "今天": 5, "天气": 6, "真": 7, "好": 8}


def sentence(text: str) -> Example:
    """A sentence as a language model reads it: at each word, predict the next, then the end."""
    ids = [WORDS[word] for word in text.split()]
    return Example(np.array(ids), np.array([*ids[1:], EOS]))


TWO = [sentence("我 是 学生"), sentence("今天 天气 真 好")]


def rows_of(ids: Tensor, is_real: Tensor) -> list[list[int]]:
    return [row[kept].tolist() for row, kept in zip(ids, is_real, strict=True)]


# A batch to check by eye


def test_two_sentences_padded_right() -> None:
    batch = collate(TWO, PAD)
    assert batch.input_ids.tolist() == [[2, 3, 4, 0], [5, 6, 7, 8]]
    assert batch.labels.tolist() == [[3, 4, 1, NO], [6, 7, 8, 1]]
    assert batch.lengths.tolist() == [3, 4]
    assert batch.padding_side == "right"
    assert batch.source_ids is None
    assert batch.source_lengths is None
    assert (batch.input_count, batch.target_count) == (7, 7)
    assert not batch.is_filler


def test_two_sentences_padded_left() -> None:
    batch = collate(TWO, PAD, padding_side="left")
    assert batch.input_ids.tolist() == [[0, 2, 3, 4], [5, 6, 7, 8]]
    assert batch.labels.tolist() == [[NO, 3, 4, 1], [6, 7, 8, 1]]
    assert batch.lengths.tolist() == [3, 4]
    assert batch.padding_side == "left"


def test_two_sentences_padded_to_a_multiple() -> None:
    batch = collate(TWO, PAD, pad_to_multiple_of=3)
    assert batch.input_ids.tolist() == [[2, 3, 4, 0, 0, 0], [5, 6, 7, 8, 0, 0]]
    assert batch.labels.tolist() == [[3, 4, 1, NO, NO, NO], [6, 7, 8, 1, NO, NO]]
    assert batch.lengths.tolist() == [3, 4]


def test_sources_are_padded_to_a_width_of_their_own() -> None:
    pairs = [
        Example(np.array([5]), np.array([6]), np.array([2, 3, 4])),
        Example(np.array([7, 8]), np.array([8, 1]), np.array([9])),
    ]
    batch = collate(pairs, 11)
    assert batch.input_ids.tolist() == [[5, 11], [7, 8]]
    assert batch.source_ids is not None
    assert batch.source_ids.tolist() == [[2, 3, 4], [9, 11, 11]]
    assert batch.source_lengths is not None
    assert batch.source_lengths.tolist() == [3, 1]

    batch = collate(pairs, 11, padding_side="left", pad_to_multiple_of=4)
    assert batch.input_ids.tolist() == [[11, 11, 11, 5], [11, 11, 7, 8]]
    assert batch.source_ids is not None
    assert batch.source_ids.tolist() == [[11, 2, 3, 4], [11, 11, 11, 9]]


@pytest.mark.parametrize("side", SIDES)
def test_the_end_is_still_a_target_if_inputs_are_padded_with_the_end_token(
    side: PaddingSide,
) -> None:
    batch = collate(TWO, EOS, padding_side=side)
    assert batch.input_ids.flatten().tolist().count(EOS) == 1  # the padded position
    assert batch.targets.tolist() == [3, 4, EOS, 6, 7, 8, EOS]
    assert batch.labels.flatten().tolist().count(NO) == 1


def test_labels_that_were_ignored_stay_ignored() -> None:
    batch = collate([Example(np.array([4, 5, 6]), np.array([NO, 7, NO])), TWO[1]], PAD)
    assert batch.labels.tolist() == [[NO, 7, NO, NO], [6, 7, 8, 1]]


def test_ids_of_any_integer_type_become_int64() -> None:
    small = Example(
        np.array([2, 3], dtype=np.uint16),
        np.array([3, NO], dtype=np.int32),
        np.array([4], dtype=np.uint8),
    )
    batch = collate([small], PAD)
    tensors = [value for value in vars(batch).values() if isinstance(value, Tensor)]
    assert len(tensors) == 5
    assert {tensor.dtype for tensor in tensors} == {torch.int64}
    assert batch.labels.tolist() == [[3, NO]]


# Any batch


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    side=st.sampled_from(SIDES),
    multiple=st.integers(1, 8),
    pad_id=st.integers(0, 22),
    with_source=st.booleans(),
    seed=st.integers(0, 99),
)
def test_what_was_padded_can_be_read_back(
    lengths: list[int],
    side: PaddingSide,
    multiple: int,
    pad_id: int,
    with_source: bool,
    seed: int,
) -> None:
    examples = make_examples(lengths, with_source=with_source, seed=seed)
    batch = collate(examples, pad_id, padding_side=side, pad_to_multiple_of=multiple)
    assert rows_of(batch.input_ids, batch.is_real) == [e.input_ids.tolist() for e in examples]
    assert rows_of(batch.labels, batch.is_real) == [e.labels.tolist() for e in examples]
    assert (batch.input_ids[~batch.is_real] == pad_id).all()
    assert (batch.labels[~batch.is_real] == NO).all()
    assert batch.input_count == sum(lengths)
    assert batch.target_count == sum(int((e.labels != NO).sum()) for e in examples)

    width = batch.input_ids.shape[1]
    assert width % multiple == 0
    assert max(lengths) <= width < max(lengths) + multiple
    if with_source:
        sources = [e.source_ids.tolist() for e in examples if e.source_ids is not None]
        ids, is_real = batch.first_side
        assert rows_of(ids, is_real) == sources
        assert (ids[~is_real] == pad_id).all()
        assert ids.shape[1] % multiple == 0


def test_collate_does_not_write_into_the_examples() -> None:
    ids = np.array([2, 3])
    batch = collate([Example(ids, ids)], PAD)
    batch.input_ids.fill_(7)
    assert ids.tolist() == [2, 3]


# Filler


@pytest.mark.parametrize("with_source", [True, False])
def test_a_filler_has_one_position_and_no_target(with_source: bool) -> None:
    batch = filler(7, with_source=with_source)
    assert batch.is_filler
    assert batch.input_ids.tolist() == [[7]]
    assert batch.labels.tolist() == [[NO]]
    assert batch.lengths.tolist() == [1]
    assert (batch.source_ids is not None) is with_source
    if batch.source_ids is not None:
        assert batch.source_ids.tolist() == [[7]]
    assert (batch.target_count, batch.real_count) == (0, 0)
    assert batch.input_count == 1


# Bad arguments


@pytest.mark.parametrize(
    ("examples", "options", "message"),
    [
        ([], {}, r"collate needs at least one example.*filler\(\)"),
        (TWO, {"padding_side": "middle"}, "padding_side must be 'left' or 'right', got 'middle'"),
        (TWO, {"pad_to_multiple_of": 0}, "pad_to_multiple_of must be at least 1, got 0"),
        (
            [TWO[0], Example(np.array([2]), np.array([3]), np.array([4]))],
            {},
            "some examples have source_ids and some have none",
        ),
        (
            [
                Example(np.array([4, 5]), np.array([6])),
                Example(np.array([1, 2, 3]), np.array([1, 2, 3])),
            ],
            {"padding_side": "left"},
            "example 0 has 2 input_ids and 1 labels",
        ),
    ],
)
def test_bad_arguments_are_named(
    examples: list[Example], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        collate(examples, PAD, **options)


def test_the_result_is_a_checked_batch() -> None:
    assert isinstance(collate(TWO, PAD), Batch)
