"""A model on several ranks: when gradients are exchanged; with FSDP, what is sharded and how it is
used whole.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import (
    DDPStrategy,
    ModelParallelStrategy,
    ParallelStrategy,
    Strategy,
)
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from everytoken.checkpoint import verify


class Sharding(ModelParallelStrategy):
    """The model sharded over all ranks; its checkpoints are files like those of any other run.

    Args:
        ranks: of all machines.
        timeout: how long a rank may wait for the others.
    """

    def __init__(self, ranks: int, timeout: timedelta) -> None:
        # Lightning's own default shards over nodes only, and splits tensors inside a node.
        super().__init__(
            data_parallel_size=ranks,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timeout,
        )

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Each rank takes its shards out of the file, which is verified first."""
        verify(Path(checkpoint_path))
        return super().load_checkpoint(checkpoint_path, weights_only=True)


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard each block of each stack of the model, and what is left of it, unless it is done.

    Args:
        model: its stacks are `nn.ModuleList`s.
        mesh: the ranks.
    """
    if _sharded(model):
        return
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList):
            for block in stack:
                fully_shard(block, mesh=mesh)
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


def _sharded(model: nn.Module) -> list[FSDPModule]:
    return [part for part in model.modules() if isinstance(part, FSDPModule)]
