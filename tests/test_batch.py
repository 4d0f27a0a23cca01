"""What a `Batch` knows: which positions are real, which are targets, and how many of each."""

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import Tensor

from everytoken.batch import IGNORE_INDEX, Batch, real_positions, true_indices
from support.helpers import make_batch

NO = IGNORE_INDEX


def fields(**changed: Any) -> dict[str, Any]:
    """Two sequences of 3 and 2 tokens, padded right to 4 with id 9, with sources of 1 and 2."""
    return {
        "input_ids": torch.tensor([[5, 6, 7, 9], [8, 9, 9, 9]]),
        "labels": torch.tensor([[6, NO, 9, NO], [NO, 9, NO, NO]]),
        "lengths": torch.tensor([3, 2]),
        "source_ids": torch.tensor([[4, 9], [3, 2]]),
        "source_lengths": torch.tensor([1, 2]),
        **changed,
    }


def tensors(batch: Batch) -> dict[str, Tensor]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}


def test_ignored_labels_are_those_that_torch_ignores() -> None:
    # The default of F.cross_entropy: labels mean the same to anyone's loss.
    assert IGNORE_INDEX == torch.nn.CrossEntropyLoss().ignore_index == -100


# Counts


def test_tokens_are_counted_once_and_as_python_integers() -> None:
    batch = Batch.make(**fields())
    assert batch.input_count == 5
    assert batch.source_count == 3
    assert batch.real_count == batch.unpadded_count == 8
    assert batch.target_count == 3
    assert batch.padded_count == 12
    for count in (batch.input_count, batch.source_count, batch.target_count):
        assert type(count) is int


def test_without_sources_the_inputs_alone_are_counted() -> None:
    batch = Batch.make(**fields(source_ids=None, source_lengths=None))
    assert (batch.source_count, batch.real_count, batch.padded_count) == (0, 5, 8)


def test_tokens_of_a_filler_are_no_data() -> None:
    batch = Batch.make(**fields(is_filler=True))
    assert batch.real_count == 0
    assert batch.unpadded_count == 8  # that is what the model runs on


def test_a_batch_without_targets_is_allowed() -> None:
    batch = Batch.make(**fields(labels=torch.full((2, 4), NO)))
    assert batch.target_count == 0
    assert batch.targets.tolist() == []


# Which positions


def test_real_positions_follow_lengths_and_not_ids() -> None:
    # The second real token of row 1 has the id that also fills the padding.
    assert Batch.make(**fields()).is_real.tolist() == [
        [True, True, True, False],
        [True, True, False, False],
    ]


def test_real_positions_stand_at_the_end_if_the_padding_is_left() -> None:
    batch = Batch.make(
        input_ids=torch.tensor([[9, 5, 6, 7], [9, 9, 8, 9]]),
        labels=torch.tensor([[NO, 6, NO, 9], [NO, NO, NO, 9]]),
        lengths=torch.tensor([3, 2]),
        padding_side="left",
    )
    assert batch.is_real.tolist() == [[False, True, True, True], [False, False, True, True]]
    assert batch.targets.tolist() == [6, 9, 9]


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_may_be_full_or_empty(side: Any) -> None:
    assert real_positions(torch.tensor([2, 0]), 2, side).tolist() == [[True] * 2, [False] * 2]


def test_targets_are_the_labels_row_by_row() -> None:
    batch = Batch.make(**fields(labels=torch.tensor([[1, NO, 0, NO], [2, 0, NO, NO]])))
    assert batch.targets.tolist() == [1, 0, 2, 0]
    assert batch.is_target.tolist() == [[True, False, True, False], [True, True, False, False]]
    assert torch.equal(batch.labels[batch.is_target], batch.targets)


def test_indices_of_the_true_positions_in_order() -> None:
    mask = torch.tensor([False, True, True, False, True])
    assert true_indices(mask, 3).tolist() == [1, 2, 4]
    assert true_indices(torch.zeros(4, dtype=torch.bool), 0).tolist() == []


def test_first_side_is_the_source_if_there_is_one() -> None:
    batch = Batch.make(**fields())
    ids, is_real = batch.first_side
    assert ids is batch.source_ids
    assert is_real.tolist() == [[True, False], [True, True]]

    batch = Batch.make(**fields(source_ids=None, source_lengths=None))
    ids, is_real = batch.first_side
    assert ids is batch.input_ids
    assert torch.equal(is_real, batch.is_real)


def test_first_side_knows_on_which_side_the_source_is_padded() -> None:
    batch = make_batch([3, 1, 2], with_source=True, pad_id=22, padding_side="left")
    ids, is_real = batch.first_side
    assert batch.source_lengths is not None
    assert is_real.sum(1).tolist() == batch.source_lengths.tolist()
    assert is_real[:, -1].all()
    assert set(ids[~is_real].tolist()) == {22}


# Moving


@pytest.mark.parametrize("with_source", [True, False])
def test_every_tensor_moves_to_another_device_and_nothing_else_changes(with_source: bool) -> None:
    batch = make_batch([3, 1, 2], with_source=with_source, padding_side="left")
    moved = batch.to("meta")
    assert {t.device.type for t in tensors(moved).values()} == {"meta"}
    assert {n: t.shape for n, t in tensors(moved).items()} == {
        n: t.shape for n, t in tensors(batch).items()
    }
    rest = {name: value for name, value in vars(batch).items() if name not in tensors(batch)}
    assert {name: getattr(moved, name) for name in rest} == rest
    assert {t.device.type for t in tensors(batch).values()} == {"cpu"}


def test_a_batch_on_the_same_device_keeps_its_values() -> None:
    batch = Batch.make(**fields(is_filler=True))
    moved = batch.to("cpu")
    assert moved.is_filler
    for name, tensor in tensors(batch).items():
        assert torch.equal(tensor, getattr(moved, name))


def test_a_batch_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Batch.make(**fields()).target_count = 0  # pyright: ignore[reportAttributeAccessIssue]


def test_repr_says_what_matters() -> None:
    batch = Batch.make(**fields())
    assert repr(batch) == "Batch((2, 4), source (2, 2), 8 real tokens, 3 targets)"
    filler = Batch.make(**fields(source_ids=None, source_lengths=None, is_filler=True))
    assert repr(filler) == "Batch((2, 4), 0 real tokens, 3 targets, filler)"


# Bad fields


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"input_ids": torch.tensor([5, 6])},
            r"input_ids has shape \(2,\) and lengths \(2,\): expected \(rows, positions\)",
        ),
        ({"lengths": torch.tensor([3])}, r"input_ids has shape \(2, 4\) and lengths \(1,\)"),
        ({"lengths": torch.tensor([[3, 2]])}, r"lengths \(1, 2\)"),
        ({"lengths": torch.tensor([5, 2])}, "lengths must lie between 0 and 4.*got 2 to 5"),
        ({"lengths": torch.tensor([3, -1])}, "lengths must lie between 0 and 4.*got -1 to 3"),
        (
            {"labels": torch.full((2, 3), NO)},
            r"labels have shape \(2, 3\), input_ids \(2, 4\)",
        ),
        ({"source_lengths": None}, "source_ids and source_lengths go together"),
        ({"source_ids": None}, "source_ids and source_lengths go together"),
        ({"source_lengths": torch.tensor([1, 3])}, "source_lengths must lie between 0 and 2"),
        ({"source_lengths": torch.tensor([1])}, "source_ids has shape"),
        (
            {"source_ids": torch.tensor([[4, 9]]), "source_lengths": torch.tensor([1])},
            "source_ids have 1 rows, input_ids 2",
        ),
        ({"lengths": torch.tensor([2, 2])}, "labels hold a target on a padded position"),
        ({"padding_side": "left"}, "labels hold a target on a padded position"),
        (
            {"labels": torch.tensor([[NO, NO, NO, 0], [NO] * 4])},
            "labels hold a target on a padded position: set it to -100",
        ),
    ],
)
def test_fields_that_contradict_each_other_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batch.make(**fields(**changed))


def test_indices_belong_to_rows() -> None:
    ids = torch.zeros(2, 3, dtype=torch.int64)
    fields: Any = {"input_ids": ids, "labels": ids, "lengths": torch.tensor([3, 3])}
    assert Batch.make(**fields).indices is None
    assert Batch.make(**fields, indices=torch.tensor([7, 4])).to("cpu").indices is not None
    with pytest.raises(ValueError, match="one index per sequence"):
        Batch.make(**fields, indices=torch.tensor([7]))
