"""Each optimizer of torch's works with the parameters, sharded or not, or is refused at once."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.optim import Optimizer

from everytoken.errors import UserError
from everytoken.training.optim import check_step, parameter_groups

OPTIMIZERS = [
    kind
    for kind in vars(torch.optim).values()
    if inspect.isclass(kind) and issubclass(kind, Optimizer) and kind is not Optimizer
]
REFUSED = {"SparseAdam"}
NOT_SHARDED = {"Adafactor", "Rprop", "SGD", "Adagrad fused", "SGD fused"}
NOT_IN_GROUPS = {"LBFGS", "Muon"}
"""What refuses parameter groups, or vectors, by itself."""


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nn.Module]:
    place = tmp_path_factory.mktemp("ranks") / "store"
    init_process_group("gloo", init_method=f"file://{place}", rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    model = nn.Linear(3, 5)
    for name, parameter in list(model.named_parameters()):
        setattr(model, name, nn.Parameter(distribute_tensor(parameter, mesh, [Shard(0)])))
    yield model
    destroy_process_group()


def ways(kind: Callable[..., Optimizer]) -> dict[str, Callable[..., Optimizer]]:
    """Plain, and fused where there is such a thing."""
    found = {kind.__name__: partial(kind, lr=0.1)}
    if "fused" in inspect.signature(kind).parameters:
        found[f"{kind.__name__} fused"] = partial(kind, lr=0.1, fused=True)
    return dict(found)


ALL = {name: make for kind in OPTIMIZERS for name, make in ways(kind).items()}


@pytest.mark.bad_input
@pytest.mark.parametrize("name", [name for name in ALL if name not in NOT_IN_GROUPS])
def test_an_optimizer_steps_or_is_refused(name: str, sharded: nn.Module):
    for model, refused in ((nn.Linear(3, 5), REFUSED), (sharded, REFUSED | NOT_SHARDED)):
        groups: list[dict[str, Any]] = parameter_groups(model)
        if name in refused:
            with pytest.raises(UserError, match=rf"^optimizer: {name.split()[0]} .*use .*adamw"):
                check_step(ALL[name], groups)
            continue
        check_step(ALL[name], groups)
        before = [p.detach().clone() for p in model.parameters()]
        optimizer = ALL[name](groups)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        for p, old in zip(model.parameters(), before, strict=True):
            new, old = (t.full_tensor() if isinstance(t, DTensor) else t for t in (p, old))
            assert not torch.equal(new, old)


def test_the_parameters_themselves_are_left_alone():
    model = nn.Linear(3, 5)
    before = model.weight.detach().clone()
    check_step(ALL["AdamW"], parameter_groups(model))
    assert torch.equal(model.weight, before)
    assert model.weight.grad is None


@pytest.mark.bad_input
def test_what_fused_costs_is_said(sharded: nn.Module):
    with pytest.raises(UserError, match=r"use optimizer\.fused=false"):
        check_step(ALL["SGD fused"], parameter_groups(sharded))
    with pytest.raises(UserError, match=r"couldn't be resumed: use optimizer\.momentum=0\.9"):
        check_step(ALL["SGD"], parameter_groups(sharded))
    check_step(partial(torch.optim.SGD, lr=0.1, momentum=0.9), parameter_groups(sharded))
