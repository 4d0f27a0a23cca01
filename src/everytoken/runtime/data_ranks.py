"""Which ranks read different examples: all of them, unless some split matrices between them.

These read the same, draw the same random numbers, and count for one.
"""

from typing import Any, NamedTuple


class DataRanks(NamedTuple):
    """This process among those that read different examples."""

    size: int
    rank: int
    copies: int
    """Ranks that read the same as this one, itself included."""
    group: Any
    """Process group of those that read different examples, this one among them; None for all
    ranks."""


def data_ranks(trainer: Any) -> DataRanks:
    """Those of a `lightning.Trainer` whose processes have met; without one, a process alone."""
    if trainer is None:
        return DataRanks(1, 0, 1, None)
    mesh = getattr(trainer.strategy, "device_mesh", None)  # of ModelParallelStrategy and ours
    if mesh is None or (copies := mesh["tensor_parallel"].size()) == 1:
        return DataRanks(trainer.world_size, trainer.global_rank, 1, None)
    group = mesh["data_parallel"].get_group()
    return DataRanks(trainer.world_size // copies, trainer.global_rank // copies, copies, group)
