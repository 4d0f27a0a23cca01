"""Each optimizer of torch's works with the parameters, sharded or not, or is refused at once."""

import copy
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
from everytoken.training.muon import Muon
from everytoken.training.optim import by_name, check_step, make_optimizer, parameter_groups
from support.helpers import make_model

OPTIMIZERS = [
    kind
    for kind in vars(torch.optim).values()
    if inspect.isclass(kind) and issubclass(kind, Optimizer) and kind is not Optimizer
]
REFUSED = {"SparseAdam"}
NOT_SHARDED = {"Adafactor", "SGD", "Adagrad fused", "SGD fused"}
if torch.__version__ < "2.15":  # compared as versions
    NOT_SHARDED.add("Rprop")
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


MUON: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "ns_steps": 5}
ADAMW: dict[str, Any] = {"betas": (0.9, 0.98), "eps": 1e-9, "fused": True}
SHARED: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}
make_muon = partial(Muon, **SHARED, **MUON, **ADAMW, adjust_lr_fn="match_rms_adamw")


def gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize("shape", ["encoder_decoder", "decoder"])
def test_muon_has_the_matrices_of_the_blocks_and_adamw_the_rest(shape: Any):
    """The same, to the bit, as torch's two side by side."""
    model, other = make_model(shape), make_model(shape)
    optimizer = make_optimizer(make_muon, model, parameter_groups(model))
    blocks = {n: p for n, p in other.named_parameters() if ".blocks." in n and p.ndim == 2}
    rest = [p for n, p in other.named_parameters() if n not in blocks]
    assert {n for n, p in other.named_parameters() if p.ndim == 2} - {*blocks} == {
        "embedding.weight",
        "head.weight",
    }
    groups = [{"params": [p]} if p.ndim == 2 else {"params": [p], "weight_decay": 0} for p in rest]
    muon = torch.optim.Muon(blocks.values(), **SHARED, **MUON, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(groups, **SHARED, **ADAMW)
    for seed in range(3):
        gradients(model, seed)
        gradients(other, seed)
        for one in (optimizer, muon, adamw):
            one.step()
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_muon_goes_on_bit_for_bit_with_the_state_that_it_saved():
    def step(model: nn.Module, optimizer: Optimizer, seed: int) -> None:
        gradients(model, seed)
        optimizer.step()

    model, resumed = make_model("decoder"), make_model("decoder")
    optimizer, other = (make_optimizer(make_muon, m, parameter_groups(m)) for m in (model, resumed))
    step(model, optimizer, 0)
    resumed.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for group in (*optimizer.param_groups, *other.param_groups):
        group["lr"] = 0.02  # as a schedule does
    for seed in (1, 2):
        step(model, optimizer, seed)
        step(resumed, other, seed)
    for p, q in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


def test_muon_moves_sharded_matrices_as_whole_ones(sharded: nn.Module):
    whole = nn.Linear(3, 5)
    with torch.no_grad():
        for p, q in zip(whole.parameters(), sharded.parameters(), strict=True):
            assert isinstance(q, DTensor)
            p.copy_(q.full_tensor())
    for model in (whole, sharded):
        optimizer = make_optimizer(make_muon, model, parameter_groups(model))
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    for p, q in zip(whole.parameters(), sharded.parameters(), strict=True):
        assert isinstance(q, DTensor)
        torch.testing.assert_close(p, q.full_tensor())


def settings_of(optimizer: Optimizer, model: nn.Module) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) of each parameter."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


@pytest.mark.parametrize("make", [partial(torch.optim.AdamW, **SHARED), make_muon])
def test_rates_and_decay_by_name(make: Callable[..., Optimizer]):
    model = make_model("encoder_decoder")
    plain = settings_of(make_optimizer(make, model, parameter_groups(model)), model)
    assert settings_of(make_optimizer(make, model, by_name(model, [])), model) == plain
    patterns = [
        {"name": "encoder.*", "lr_factor": 0.5},
        {"name": "*norm*", "weight_decay": 0.3},
        {"name": "encoder.blocks.0.*", "lr_factor": 0.25},
    ]
    optimizer = make_optimizer(make, model, by_name(model, patterns))
    assert "lr_factor" not in optimizer.param_groups[0]  # whose rate is logged
    for name, (lr, decay) in settings_of(optimizer, model).items():
        factor = 0.25 if name.startswith("encoder.blocks.0.") else 0.5
        assert lr == 0.01 * (factor if name.startswith("encoder.") else 1)
        assert decay == (0.3 if "norm" in name else plain[name][1])


@pytest.mark.bad_input
def test_a_pattern_that_nothing_fits_is_answered_with_the_nearest_names():
    model = make_model("decoder")
    with pytest.raises(
        UserError, match=r"fits decoder\.block\.0\.\*; the nearest .*decoder\.blocks"
    ):
        by_name(model, [{"name": "decoder.block.0.*", "lr_factor": 0.5}])
    model.embedding.weight.requires_grad = False
    with pytest.raises(UserError, match=r"no trained parameter fits embedding\.\*"):
        by_name(model, [{"name": "embedding.*", "lr_factor": 0.5}])
