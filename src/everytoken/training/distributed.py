"""A model on several ranks: when gradients are exchanged; with FSDP, what is sharded and how it is
used whole.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from lightning.pytorch.strategies import (
    DDPStrategy,
    ParallelStrategy,
    Strategy,
)
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from everytoken.training.deferred import Deferred

Value = TypeVar("Value")


def shard(model: nn.Module, mesh: DeviceMesh, deferred: Deferred) -> None:
    """Shard each block of each stack of the model, and what is left of it, unless it is done.

    Args:
        model: its stacks are `nn.ModuleList`s.
        mesh: the ranks.
        deferred: what is to fill it, a block at a time, if it was built without memory: beside its
            shards a rank has no more than that.
    """
    if _sharded(model):
        return
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList):
            for block in stack:
                deferred.fill(block, model)
                fully_shard(block, mesh=mesh)
    deferred.fill(model, model)
    fully_shard(model, mesh=mesh)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """All weights on each rank, to use parts of the model without waiting for the other ranks.

    Parts run without their hooks then, and ranks may take different numbers of steps. Where nothing
    is sharded, nothing is done.
    """
    parts = _sharded(model)
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not model, recurse=False)


def without_gradient_exchange(strategy: Strategy) -> AbstractContextManager[None]:
    """A context in which backward only adds to the rank's own gradients."""
    if isinstance(strategy, ParallelStrategy):
        return strategy.block_backward_sync()
    return nullcontext()


def adds_by_layout(strategy: Strategy) -> bool:
    """True if the order in which ranks' gradients are added depends on the first backward."""
    return isinstance(strategy, DDPStrategy) and strategy.world_size > 2


def whole(tensor: Tensor) -> Tensor:
    """The tensor, or if it is sharded all of it, for which all ranks must ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def from_all_ranks(value: Value) -> list[Value]:
    """The values that all ranks have, by rank; of a process without others its own.

    Args:
        value: anything that can be pickled. All ranks must call this together.
    """
    if not torch.distributed.is_initialized():
        return [value]
    values = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _sharded(model: nn.Module) -> list[FSDPModule]:
    return [part for part in model.modules() if isinstance(part, FSDPModule)]


class HostCopy:
    """Values on their way to the host.

    To read them waits until this copy is made, not for what the device was asked to do since: read
    late, they cost nothing.

    Args:
        values: of any shape, on any device.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values.to("cpu", non_blocking=values.is_cuda)
        self.copied: torch.cuda.Event | None = None
        if values.is_cuda:
            self.copied = torch.cuda.Event()
            self.copied.record()

    def read(self) -> Tensor:
        """The values, on the CPU."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.values
