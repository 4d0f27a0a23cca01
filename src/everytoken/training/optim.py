"""What the optimizer is given, and whether it can work with it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed import tensor as dtensor
from torch.optim import Optimizer

from everytoken.errors import UserError, one_line

Groups = list[dict[str, Any]]


def parameter_groups(model: nn.Module) -> Groups:
    """The model's trained parameters: matrices decay, norms and biases are left alone."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: Groups = [{"params": [p for p in trained if p.ndim >= 2]}]
    if other := [p for p in trained if p.ndim < 2]:
        groups.append({"params": other, "weight_decay": 0.0})
    return groups


def check_step(make: Callable[[Groups], Optimizer], groups: Groups) -> None:
    """Take a step with an optimizer of small parameters, which are sharded as the model's are.

    Args:
        make: makes the optimizer.
        groups: those that it has been given: lists of parameters with their settings.

    Raises:
        UserError: the optimizer can't step so, or what it keeps couldn't be resumed.
    """
    small = [{**group, "params": [_small(p) for p in group["params"][:1]]} for group in groups]
    optimizer = make([group for group in small if group["params"]])
    name = type(optimizer).__name__
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    is_sharded = any(isinstance(p, dtensor.DTensor) for p in parameters)
    others = "optimizer=adamw, or trainer=ddp" if is_sharded else "optimizer=adamw"
    for p in parameters:
        p.grad = torch.zeros_like(p)
    try:
        optimizer.step()
    except Exception as error:  # whatever an optimizer of anybody's raises
        hint = "optimizer.fused=false, " if optimizer.defaults.get("fused") else ""
        raise UserError(
            f"optimizer: {name} can't step here ({one_line(error, 150)}): use {hint}{others}"
        ) from error
    if is_sharded and not optimizer.state:  # Lightning couldn't load its checkpoint
        hint = "optimizer.momentum=0.9, " if "momentum" in optimizer.defaults else ""
        raise UserError(
            f"optimizer: {name} keeps nothing of a step, and with trainer=fsdp such a run couldn't "
            f"be resumed: use {hint}{others}"
        )


def _small(parameter: torch.Tensor) -> nn.Parameter:
    """Zeros with as many dimensions, on the same device or devices."""
    size = [4] * parameter.ndim
    if isinstance(parameter, dtensor.DTensor):
        mesh, placements = parameter.device_mesh, parameter.placements
        zeros = dtensor.zeros(*size, dtype=parameter.dtype, device_mesh=mesh, placements=placements)
    else:
        zeros = torch.zeros(size, dtype=parameter.dtype, device=parameter.device)
    return nn.Parameter(zeros)
