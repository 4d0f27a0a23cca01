"""What settings of a model may be, checked before anything heavy is imported."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from everytoken.errors import check_choice, check_number
from everytoken.model.sizes import BlockSizes, check_checkpointed

BACKENDS = ("auto", "varlen", "bucketed", "padded")
"""Ways to attend, see `backends.py`."""


def check_transformer(model: Mapping[str, Any]) -> None:
    """Refuse arguments of `Transformer` that make no sense.

    Raises:
        UserError: the first of them.
    """
    check_number("model.layers", model["layers"], int, low=1)
    BlockSizes(**{field.name: model[field.name] for field in fields(BlockSizes)})
    check_number("model.rope_base", model["rope_base"], float, low=1)
    check_number("model.window", model["window"], int, low=1, optional=True)
    check_checkpointed(model["checkpoint_activations"], model["layers"])
    check_in_training(model)


def check_in_training(model: Mapping[str, Any]) -> None:
    """The same for those that aren't part of a trained model: dropout, and the way to attend."""
    for key in ("dropout", "token_dropout"):
        check_number(f"model.{key}", model[key], float, low=0, below=1)
    check_choice("model.attention", model["attention"], BACKENDS)


CHECKS = {"Transformer": check_transformer}
"""By the name of the part."""
