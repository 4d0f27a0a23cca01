"""Ranks that split matrices between them read the same, and others the rest."""

from types import SimpleNamespace
from typing import Any

import pytest

from everytoken.runtime.data_ranks import DataRanks, data_ranks


def dimension(size: int, group: str) -> Any:
    return SimpleNamespace(size=lambda: size, get_group=lambda: group)


@pytest.mark.parametrize(
    ("rank", "copies", "expected"),
    [
        (4, 1, DataRanks(6, 4, 1, None)),
        (4, 2, DataRanks(3, 2, 2, "others")),
        (5, 2, DataRanks(3, 2, 2, "others")),
        (5, 6, DataRanks(1, 0, 6, "others")),
    ],
)
def test_ranks_are_counted_by_what_they_read(rank: int, copies: int, expected: DataRanks) -> None:
    mesh = {
        "data_parallel": dimension(6 // copies, "others"),
        "tensor_parallel": dimension(copies, "same"),
    }
    strategy = SimpleNamespace(device_mesh=mesh)
    trainer = SimpleNamespace(strategy=strategy, world_size=6, global_rank=rank)
    assert data_ranks(trainer) == expected


def test_without_a_mesh_all_ranks_read_different_examples() -> None:
    trainer = SimpleNamespace(strategy=SimpleNamespace(), world_size=3, global_rank=2)
    assert data_ranks(trainer) == DataRanks(3, 2, 1, None)
    assert data_ranks(None) == DataRanks(1, 0, 1, None)
