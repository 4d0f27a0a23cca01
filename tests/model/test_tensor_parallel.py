"""Ranks that split the matrices of each block compute what one does.

In float64, so that what is equal differs by rounding only. With FSDP beside it, see
`test_invariants.py` and `test_shards.py`.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everytoken.errors import UserError
from everytoken.model.tensor_parallel import as_pairs, check_model, from_pairs
from support import prefork
from support.helpers import make_model
from support.split_jobs import MODELS, measured, whole_model


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks measured."""
    folder = tmp_path_factory.mktemp("split")
    prefork.launch("support.split_jobs:split_models", {"folder": str(folder)}, 2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", MODELS)
def test_what_ranks_compute_together_is_what_one_computes(
    found: list[dict[str, Any]], name: str
) -> None:
    expected = measured(whole_model(name))
    for rank in found:
        run = rank[name]
        assert_close(run["hidden"], expected["hidden"])
        assert run["tokens"] == expected["tokens"]
        assert run["gradients"].keys() == expected["gradients"].keys()
        for weight, gradient in expected["gradients"].items():
            assert gradient.any(), weight
            assert_close(run["gradients"][weight], gradient)
    assert torch.equal(found[0][name]["hidden"], found[1][name]["hidden"])  # or they would diverge


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


def test_pairs_are_taken_apart_and_put_together() -> None:
    matrix = torch.arange(24.0).view(8, 3)
    pairs = as_pairs(matrix)
    assert torch.equal(pairs[1], matrix[[1, 5]])  # row 1 of the one, and of the other
    assert torch.equal(from_pairs(pairs), matrix)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("ranks", "words"),
    [(8, "must divide model.heads=4"), (4, "must divide model.key_value_heads=2")],
)
def test_heads_that_do_not_divide_are_refused(ranks: int, words: str) -> None:
    with pytest.raises(UserError, match=f"{ranks} {words}: change one"):
        check_model(make_model("decoder"), ranks)
    check_model(make_model("decoder"), 2)


@pytest.mark.bad_input
def test_other_models_are_refused() -> None:
    adapted = make_model("decoder")
    adapted.get_submodule("decoder.blocks.0.attention").query = nn.Identity()
    for model in (nn.Transformer(16, 2, 1, 1, 32), adapted):
        with pytest.raises(UserError, match=r"splits everytoken\.model\.Transformer only"):
            check_model(model, 2)
