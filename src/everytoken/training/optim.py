"""What the optimizer is given, and whether it can work with it.

Each group of parameters may have settings of its own, which the optimizer's replace where it has
none; and `lr_factor`: its learning rate as part of the optimizer's, so that a schedule, a sweep and
a run that goes on with another `optimizer.lr` mean all groups.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed import tensor as dtensor
from torch.optim import Optimizer

from everytoken.errors import UserError, one_line

Groups = list[dict[str, Any]]
MakeOptimizer = Callable[..., Optimizer]


def parameter_groups(model: nn.Module) -> Groups:
    """The model's trained parameters: matrices decay, norms and biases are left alone."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: Groups = [{"params": [p for p in trained if p.ndim >= 2]}]
    if other := [p for p in trained if p.ndim < 2]:
        groups.append({"params": other, "weight_decay": 0.0})
    return groups


def by_name(model: nn.Module, patterns: Sequence[Mapping[str, Any]]) -> Groups:
    """Parameter groups with settings by the names of parameters; the rest as `parameter_groups`.

    Args:
        model: its trained parameters have the names of `model.named_parameters()`: where the output
            layer shares the embedding's weights, there is only the embedding.
        patterns: each with a `name` as shells have patterns ("encoder.*", "*.norm.weight"), and
            settings: `lr_factor`, `weight_decay`. Where several fit, what later ones set counts.

    Raises:
        UserError: a pattern that no trained parameter fits.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for pattern in (rule["name"] for rule in patterns):
        if not any(fnmatchcase(name, pattern) for name in named):
            near = difflib.get_close_matches(pattern, named, n=3, cutoff=0)
            raise UserError(
                f"parameter_groups.patterns: no trained parameter fits {pattern}; the nearest "
                f"names are {', '.join(near)}"
            )
    members: dict[tuple[bool, tuple[int, ...]], list[tuple[str, nn.Parameter]]] = {}
    for name, p in named.items():
        # By rule, not by setting: a run whose settings change goes on with the same groups.
        fitting = tuple(i for i, rule in enumerate(patterns) if fnmatchcase(name, rule["name"]))
        members.setdefault((p.ndim >= 2, fitting), []).append((name, p))
    groups: Groups = []
    # The rate of the first group is logged: one that no pattern fits, if there is one.
    for (is_matrix, fitting), parameters in sorted(members.items(), key=lambda kind: kind[0][1]):
        settings = {} if is_matrix else {"weight_decay": 0.0}
        for i in fitting:
            settings |= {key: value for key, value in patterns[i].items() if key != "name"}
        groups.append({"params": parameters, **settings})
    return groups


def make_optimizer(make: MakeOptimizer, model: nn.Module, groups: Groups) -> Optimizer:
    """The optimizer of a model, tried out.

    Args:
        make: makes one of parameter groups, and if it takes it, of the `model` that they are of.
        model: whose parameters they are.
        groups: see above.

    Raises:
        UserError: see `check_step`.
    """
    if "model" in inspect.signature(make).parameters:
        make = partial(make, model=model)
    optimizer = make(groups)
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_factor", 1.0)
    check_step(make, optimizer.param_groups)
    return optimizer


def check_step(make: MakeOptimizer, groups: Groups) -> None:
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
