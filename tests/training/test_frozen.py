"""Which weights `freeze=` names."""

import pytest

from everytoken.errors import UserError
from everytoken.training.frozen import freeze, is_matched, trained_in_words
from everytoken.training.optim import parameter_groups
from support.helpers import make_model


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("encoder.blocks.1", True),
        ("encoder", True),
        ("encoder.blocks.1.ffn.down.weight", True),
        ("encoder.blocks.10", False),
        ("encoder.block", False),
        ("blocks.1", False),
        ("*.ffn", True),
        ("*.ffn*", True),
        ("encoder.blocks.[01]", True),
        ("encoder.blocks.[23]", False),
        ("*.norm", False),
    ],
)
def test_a_pattern_is_a_name_or_what_it_is_in(pattern: str, matched: bool):
    assert is_matched("encoder.blocks.1.ffn.down.weight", pattern) is matched


def test_what_is_frozen_is_in_no_group_and_all_else_is():
    model = make_model("encoder_decoder")
    assert "trained" not in trained_in_words(model)
    freeze(model, ["embedding", "encoder.blocks.0", "decoder.*.attention"])
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert {name.rpartition(".blocks.")[2][:2] for name in frozen if "encoder" in name} == {"0."}
    assert any(name.startswith("decoder.blocks.1.attention.") for name in frozen)
    assert not any(".attention_norm" in name for name in frozen if "decoder" in name)
    grouped = {id(weight) for group in parameter_groups(model) for weight in group["params"]}
    left = {name for name, weight in model.named_parameters() if id(weight) in grouped}
    assert left == {name for name, _ in model.named_parameters()} - frozen
    total, trained = trained_in_words(model).replace(",", "").split(" parameters (")
    assert int(total) > int(trained.removesuffix(" trained)")) > 0


def test_a_weight_with_two_names_goes_by_each():
    model = make_model("decoder")
    model.head.weight = model.embedding.weight
    freeze(model, "head")
    assert not model.embedding.weight.requires_grad


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ("encoder.block.0", "is the name of no weight .* nearest are encoder.blocks.0, "),
        (["embedding", "decoder"], "freeze=decoder is the name of no weight of Transformer: near"),
        ("*", "freeze leaves nothing to train"),
        (["embedding", "encoder", "head"], "freeze leaves nothing to train"),
    ],
)
def test_what_freezes_nothing_or_all_is_refused(patterns: str | list[str], message: str):
    with pytest.raises(UserError, match=message):
        freeze(make_model("encoder"), patterns)
