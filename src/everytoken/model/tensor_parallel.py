"""Tensor parallelism: a group of ranks splits the matrices of each block (Shoeybi et al. 2019).

Each rank has some of the heads and some of the channels of the feed-forward layers: rows of the
matrices that make them, columns of those that read them. All else is on every rank of the group,
which computes it with the same numbers: what a block is given, and what it adds to the residual
stream. So ranks exchange where a sublayer ends, and in backward where it begins, and nowhere else.

Shapes: N tokens, D width, R rows of keys, or of values, or of gates.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn import functional as F

from everytoken.errors import UserError
from everytoken.model.block import Block
from everytoken.model.sizes import check_split
from everytoken.model.transformer import Transformer

NAME = "tensor_parallel"
"""Of the dimension of a mesh along which ranks split."""


def check_model(model: nn.Module, ranks: int) -> None:
    """Refuse a model that so many ranks can't split.

    Raises:
        UserError: it is none of ours, or heads or channels don't divide.
    """
    blocks = [part for part in model.modules() if isinstance(part, Block)]
    plain = all(type(layer) is nn.Linear for block in blocks for layer in _layers(block))
    if not isinstance(model, Transformer) or not plain:
        raise UserError(
            f"trainer.tensor_parallel={ranks} splits everytoken.model.Transformer only, without "
            f"adapters, and this is a {type(model).__name__}: use trainer.tensor_parallel=1"
        )
    attention = blocks[0].attention
    check_split(
        ranks,
        heads=attention.query.out_features // attention.head_width,
        key_value_heads=attention.key_value.out_features // (2 * attention.head_width),
        ffn_width=blocks[0].ffn.down.in_features,
    )


def split(part: nn.Module, mesh: DeviceMesh) -> None:
    """Let a block compute a share of its heads and channels; or a model hand on gradients.

    Weights become DTensors of the mesh, with the names that they had. Each must be split before the
    model that it is in.

    Args:
        part: a block that has its values, the same on all ranks; or the model of such blocks.
        mesh: of the ranks of a group, its one dimension called `NAME`.
    """
    gather = partial(_gather_gradient, mesh.get_group())
    if isinstance(part, Block):
        for layer, kind in _layers(part).items():
            _split(layer, kind, mesh)
        for norm in (part.attention_norm, part.cross_norm, part.ffn_norm):
            if norm is not None:
                norm.register_forward_hook(gather)
    elif isinstance(part, Transformer) and part.encoder is not None and part.decoder is not None:
        part.encoder.norm.register_forward_hook(gather)  # all blocks of the decoder read it


class SplitOutputs(nn.Linear):
    """A linear layer of which each rank makes a share of the outputs: (N, D) → (N, R / ranks)."""

    def forward(self, input: Tensor) -> Tensor:
        """This rank's share."""
        return F.linear(input, _own(self.weight))


class SplitPairs(nn.Linear):
    """The same for two in one matrix, keys and values say: (N, D) → (N, 2 R / ranks).

    Of both a rank has the same rows, so the weight is (R, 2, D) here and is split along R.
    """

    def forward(self, input: Tensor) -> Tensor:
        """This rank's share of both, one after the other as in the matrix."""
        out = F.linear(input, _own(self.weight).flatten(0, 1))
        return out.unflatten(-1, (-1, 2)).mT.flatten(-2)


class SplitInputs(nn.Linear):
    """A linear layer of which each rank has a share of the inputs: (N, R / ranks) → (N, D)."""

    def forward(self, input: Tensor) -> Tensor:
        """The sum over all ranks."""
        assert isinstance(self.weight, DTensor)
        return _Sum.apply(F.linear(input, _own(self.weight)), self.weight.device_mesh.get_group())


def as_pairs(weight: Tensor) -> Tensor:
    """(2 R, D) → (R, 2, D), what `SplitPairs` has of a matrix."""
    return weight.unflatten(0, (2, -1)).transpose(0, 1)


def from_pairs(weight: Tensor) -> Tensor:
    """(R, 2, D) → (2 R, D), the matrix again."""
    return weight.transpose(0, 1).flatten(0, 1)


def is_of_pairs(tensor: Tensor) -> bool:
    """True for weights of `SplitPairs`, their gradients, and what an optimizer keeps of them."""
    if not isinstance(tensor, DTensor) or tensor.ndim != 3:
        return False
    return NAME in (tensor.device_mesh.mesh_dim_names or ())


DIMENSIONS: dict[type[nn.Linear], int] = {SplitOutputs: 0, SplitPairs: 0, SplitInputs: 1}
"""Of the weight, along which it is split."""


def _layers(block: Block) -> dict[nn.Linear, type[nn.Linear]]:
    """The plan: what becomes of each linear layer of a block."""
    found: dict[nn.Linear, type[nn.Linear]] = {}
    for layer in (block.attention, block.cross):
        if layer is not None:
            found |= {layer.query: SplitOutputs, layer.key_value: SplitPairs}
            found[layer.output] = SplitInputs
    return found | {block.ffn.gate_up: SplitPairs, block.ffn.down: SplitInputs}


def _split(layer: nn.Linear, kind: type[nn.Linear], mesh: DeviceMesh) -> None:
    weight = layer.weight.detach()
    if kind is SplitPairs:
        weight = as_pairs(weight).contiguous()
    # All ranks have the same values: nothing is sent.
    part = distribute_tensor(weight, mesh, [Shard(DIMENSIONS[kind])], src_data_rank=None)
    layer.weight = nn.Parameter(part, requires_grad=layer.weight.requires_grad)
    layer.__class__ = kind


def _own(weight: Tensor) -> Tensor:
    assert isinstance(weight, DTensor)
    return weight.to_local()


def _gather_gradient(group: ProcessGroup, _: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return _Same.apply(output, group)


class _Same(torch.autograd.Function):
    """What each rank of a group reads: its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(gradient, group=ctx.group)
        return gradient, None


class _Sum(torch.autograd.Function):
    """The sum over the ranks of a group, on each of them."""

    @staticmethod
    def forward(ctx, part: Tensor, group: ProcessGroup) -> Tensor:
        ctx.mark_dirty(part)
        torch.distributed.all_reduce(part, group=group)
        return part

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
