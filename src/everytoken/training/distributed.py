"""A model on several ranks: when gradients are exchanged; with FSDP, what is sharded and how it is
used whole.

There the ranks are a mesh of two dimensions. Those along "tensor_parallel" read the same examples
and split the matrices of blocks; usually that is one.
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
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from everytoken.model.tensor_parallel import (
    NAME,
    as_pairs,
    check_model,
    from_pairs,
    is_of_pairs,
    split,
)
from everytoken.training.deferred import Deferred

Value = TypeVar("Value")


def shard(model: nn.Module, mesh: DeviceMesh, deferred: Deferred | None) -> None:
    """Shard each block of each stack of the model, and what is left of it, unless it is done.

    Blocks are sharded along "data_parallel", after they were split along "tensor_parallel"; what is
    left, over all ranks.

    Args:
        model: its stacks are `nn.ModuleList`s.
        mesh: the ranks.
        deferred: what is to fill it, a block at a time, if it was built without memory: beside its
            shards a rank has no more than that.

    Raises:
        UserError: it can't be split so.
    """
    if _sharded(model):
        return
    data = every = mesh["data_parallel"]
    tensor = mesh[NAME]
    if tensor.size() > 1:
        check_model(model, tensor.size())
        every = init_device_mesh(mesh.device_type, (mesh.size(),), mesh_dim_names=("all",))

    def place(part: nn.Module, ranks: DeviceMesh) -> None:
        if deferred is not None:
            deferred.fill(part, model)
        if tensor.size() > 1:
            split(part, tensor)
        fully_shard(part, mesh=ranks)

    for stack in model.modules():
        if isinstance(stack, nn.ModuleList):
            for block in stack:
                place(block, data)
    place(model, every)


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
    """The tensor, or if it is sharded all of it, for which all ranks must ask together.

    It has the shape that it has in one process.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    placements, found = list(tensor.placements), tensor
    for dim in range(len(placements)):  # one by one: torch warns of several, and does the same
        placements[dim] = Replicate()
        found = found.redistribute(placements=placements)
    return from_pairs(found.to_local()) if is_of_pairs(tensor) else found.to_local()


def shape_of(tensor: Tensor) -> torch.Size:
    """The shape of what `whole` gives."""
    if not is_of_pairs(tensor):
        return tensor.shape
    rows, both, width = tensor.shape
    return torch.Size((both * rows, width))


@torch.no_grad()
def take_part(own: Tensor, saved: Tensor) -> None:
    """Give a tensor the values of one that is as one process has it; of that a part, if sharded.

    Of a file only this part is read, and nothing is sent.
    """
    if not isinstance(own, DTensor):
        own.copy_(saved)
        return
    saved = saved.to(own.dtype)
    saved = as_pairs(saved) if is_of_pairs(own) else saved
    part = distribute_tensor(saved, own.device_mesh, own.placements, src_data_rank=None)
    own.to_local().copy_(part.to_local())


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scale the gradients of a model down to a norm; what it was, on all ranks the same.

    As torch's own, which takes tensors of one mesh only: here each weight counts once, on whichever
    ranks it is.
    """
    by_mesh: dict[DeviceMesh | None, list[nn.Parameter]] = {}
    for weight in model.parameters():
        if weight.grad is not None:
            mesh = weight.device_mesh if isinstance(weight, DTensor) else None
            by_mesh.setdefault(mesh, []).append(weight)
    is_sharded = any(mesh is not None for mesh in by_mesh)
    ranks = torch.distributed.get_world_size() if is_sharded else 1
    own = torch.zeros(())
    squares: list[Tensor] = []
    for mesh, weights in by_mesh.items():
        own = nn.utils.get_total_norm(_own_gradients(weights))
        # Of what is on several ranks each counts a part; float64 keeps the square of a float32.
        squares.append(own.double() ** 2 * ((1 if mesh is None else mesh.size()) / ranks))
    square = torch.stack(squares).sum() if squares else own
    if is_sharded:
        torch.distributed.all_reduce(square)
    norm = square.sqrt().to(own.dtype)
    for weights in by_mesh.values():
        nn.utils.clip_grads_with_norm_(weights, limit, norm)
    return norm


def _own_gradients(weights: list[nn.Parameter]) -> list[Tensor]:
    """Those that this rank has, or its parts of them."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    return [g.to_local() if isinstance(g, DTensor) else g for g in gradients]


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
