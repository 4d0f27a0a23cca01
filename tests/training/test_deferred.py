"""A model that is built without memory has, once filled, the weights of one that was built."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from everytoken.errors import RunError
from everytoken.model.transformer import Transformer
from everytoken.training.deferred import Deferred, built, load


def transformer(*, tied: bool = True) -> Transformer:
    return Transformer(
        shape="encoder_decoder",
        vocabulary=50,
        layers=2,
        width=16,
        heads=2,
        key_value_heads=1,
        ffn_width=32,
        tie_embeddings=tied,
        rope_base=1e4,
        norm_eps=1e-6,
    )


class Odd(nn.Module):
    """What constructors do, all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = nn.Parameter(0.1 * torch.randn(3, 4))
        self.cut = nn.Parameter(nn.init.trunc_normal_(torch.empty(30, 40)))  # draws until it fits
        self.table = nn.Embedding(5, 3, padding_idx=0)
        nn.init.orthogonal_(self.table.weight)
        self.rows = nn.Parameter(torch.zeros(4, 5))
        with torch.no_grad():
            self.rows[1].normal_()
            self.rows[2:].copy_(self.rows[1])
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("rates", 2.0 ** -torch.arange(4.0), persistent=False)
        self.kept = torch.arange(5) * 2
        self.own = nn.Parameter(torch.rand(6, generator=torch.Generator().manual_seed(3)))
        self.double()


MODELS: list[Callable[[], nn.Module]] = [
    transformer,
    lambda: transformer(tied=False),
    Odd,
    lambda: nn.Transformer(16, 2, 1, 1, 32),
]


def tensors(model: nn.Module) -> dict[str, Tensor]:
    named = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    others = {k: v for k, v in vars(model).items() if isinstance(v, Tensor)}
    return named | others


@pytest.mark.parametrize("make", MODELS)
def test_a_model_that_is_filled_a_part_at_a_time_is_the_one_built_at_once(
    make: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(1)
    expected = make()
    after = torch.rand(3)
    torch.manual_seed(1)
    deferred = Deferred()
    with deferred.building():
        model = make()
    assert all(weight.is_meta for weight in model.parameters())
    assert torch.equal(torch.rand(3), after)  # what is drawn next doesn't depend on it
    parts = [*model.modules()]
    torch.set_default_dtype(torch.float64)  # as a trainer does that works in it
    for part in random.Random(0).sample(parts, len(parts)):
        deferred.fill(part, model)
    torch.set_default_dtype(torch.float32)
    assert torch.rand(3).tolist() != after.tolist()
    found, right = tensors(model), tensors(expected)
    assert found.keys() == right.keys()
    for name, tensor in right.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
        assert type(found[name]) is type(tensor)
        assert found[name].requires_grad == tensor.requires_grad


def test_only_what_is_asked_for_has_memory_and_what_is_tied_stays_so() -> None:
    deferred = Deferred()
    with deferred.building():
        model = transformer()
    assert model.encoder is not None
    deferred.fill(model.encoder.blocks[0], model)
    filled = {name for name, weight in model.named_parameters() if not weight.is_meta}
    assert filled
    assert all(name.startswith("encoder.blocks.0.") for name in filled)
    deferred.fill(model, model)
    assert model.head.weight is model.embedding.weight


class Decided(nn.Module):
    """What a constructor decides by a value."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))
        if self.weight.sum() > 0:
            nn.init.zeros_(self.weight)
        self.listed = torch.rand(3).tolist()


def test_a_constructor_may_look_at_values() -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        expected = Decided()
        torch.manual_seed(seed)
        model, deferred = built(Decided)
        assert isinstance(model, Decided)
        assert model.listed == expected.listed
        deferred.fill(model, model)
        assert torch.equal(model.weight, expected.weight)


class Mixed(nn.Module):
    """A constructor that can't do without memory."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))
        self.weight.data.numpy()[:] += random.random()


def test_a_model_that_needs_memory_is_built_at_once_and_that_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(1)
    random.seed(1)
    expected = Mixed()
    torch.manual_seed(1)
    random.seed(1)
    model, _ = built(Mixed)
    assert isinstance(model, Mixed)
    assert torch.equal(model.weight, expected.weight)
    assert "Mixed can't be built without memory" in capsys.readouterr().out


class Reusing(nn.Module):
    """A constructor that fills a table once for each weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        table = torch.from_numpy(np.arange(16, dtype="f4").reshape(4, 4))
        for layer in (self.first, self.second):
            layer.weight.data.copy_(table)
            table *= 2


def test_what_a_constructor_writes_to_after_it_was_read_is_read_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, _ = built(Reusing)
    assert isinstance(model, Reusing)
    assert torch.equal(2 * model.first.weight, model.second.weight)
    assert model.first.weight[0, 1] == 1
    assert "Reusing can't be built without memory (it writes to a tensor" in capsys.readouterr().out


def test_what_is_written_to_after_the_building_is_refused() -> None:
    table = torch.from_numpy(np.arange(16, dtype="f4").reshape(4, 4))

    def make() -> nn.Module:
        layer = nn.Linear(4, 4)
        layer.weight.data.copy_(table)
        return layer

    model, deferred = built(make)
    table *= 2
    with pytest.raises(RunError, match="was written to after a model took its values"):
        deferred.fill(model, model)


def test_weights_that_exist_take_the_place_of_those_that_were_never_made() -> None:
    torch.manual_seed(1)
    right = transformer()
    state = {name: 2 * tensor for name, tensor in right.state_dict().items() if "encoder" in name}
    state["embedding.weight"] = right.embedding.weight.double() + 1
    torch.manual_seed(1)
    deferred = Deferred()
    with deferred.building():
        model = transformer()
    assert torch.equal(
        deferred.value(model.state_dict()["head.weight"]), right.get_parameter("head.weight")
    )
    load(model, state)
    deferred.fill(model, model)
    assert model.get_parameter("head.weight") is model.get_parameter("embedding.weight")
    load(right, state)
    for name, tensor in right.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
        assert model.state_dict()[name].dtype == tensor.dtype
