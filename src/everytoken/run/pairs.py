"""How shards describe two matrices in one, keys and values say, that ranks have split together.

Of both a rank has the same rows (see `model/tensor_parallel.py`): some of (R, 2, D). In shards that
is two pieces of (2 R, D), as of any other run.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, WriteItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.tensor import DTensor

from everytoken.model.tensor_parallel import is_of_pairs
from everytoken.training.distributed import shape_of


class PairSavePlanner(DefaultSavePlanner):
    """torch's own, but for pairs."""

    def create_local_plan(self) -> SavePlan:
        """What this rank writes."""
        plan = super().create_local_plan()
        items = [piece for item in plan.items for piece in self._pieces(item)]
        self.plan = replace(plan, items=items)
        return self.plan

    def _pieces(self, item: WriteItem) -> list[WriteItem]:
        tensor = self.state_dict[item.index.fqn]
        if not is_of_pairs(tensor) or item.tensor_data is None:
            return [item]
        data = replace(item.tensor_data, size=shape_of(tensor))
        return [
            replace(
                item,
                index=MetadataIndex(item.index.fqn, piece.offsets),
                tensor_data=replace(data, chunk=piece),
            )
            for piece in _pieces(tensor)
        ]

    def lookup_object(self, index: MetadataIndex) -> object:
        """What is written of a piece."""
        tensor = self.state_dict[index.fqn]
        if is_of_pairs(tensor):
            return _piece(tensor, index).contiguous()
        return super().lookup_object(index)


class PairLoadPlanner(DefaultLoadPlanner):
    """torch's own, but for pairs."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False)

    def create_local_plan(self) -> LoadPlan:
        """What this rank reads."""
        wanted, saved = self.state_dict, self.metadata
        assert saved is not None
        pairs = {name: tensor for name, tensor in wanted.items() if is_of_pairs(tensor)}
        self.state_dict = {name: wanted[name] for name in wanted if name not in pairs}
        items = [*super().create_local_plan().items]
        self.state_dict = wanted
        for name, tensor in pairs.items():
            found = saved.state_dict_metadata[name]
            assert isinstance(found, TensorStorageMetadata)
            items += create_read_items_for_chunk_list(name, found, _pieces(tensor))
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """Where a piece is put."""
        tensor = self.state_dict[index.fqn]
        return _piece(tensor, index) if is_of_pairs(tensor) else super().lookup_tensor(index)


def _pieces(tensor: DTensor) -> list[ChunkStorageMetadata]:
    """The two of (2 R, D) that this rank has; none if it has no rows."""
    [part] = tensor.__create_chunk_list__()
    (first, _, column), (count, both, width) = part.offsets, part.sizes
    starts = range(first, both * len(tensor), len(tensor)) if count else ()
    sizes = torch.Size((count, width))
    return [ChunkStorageMetadata(torch.Size((start, column)), sizes) for start in starts]


def _piece(tensor: DTensor, index: MetadataIndex) -> Tensor:
    """(count, D) the one that begins there."""
    assert index.offset is not None
    return tensor.to_local()[:, index.offset[0] // len(tensor)]
