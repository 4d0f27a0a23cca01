"""Weights that stay as they are: `freeze=`.

They get no gradient, so they are in no parameter group: no optimizer state, no decay. All else of
their layers is as in training: dropout drops there, too.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from everytoken.errors import UserError, nearest


def freeze(model: nn.Module, patterns: str | Sequence[str] | None) -> None:
    """Let weights of a model require no gradient.

    Args:
        model: whose.
        patterns: names of weights or of what they are in ("encoder.blocks.0"), also as a shell
            would match them ("*.norm"); None for nothing. A weight with several names goes by each.

    Raises:
        UserError: a pattern of nothing, or nothing left to train.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    for pattern in [patterns] if isinstance(patterns, str) else patterns or []:
        found = [name for name in named if is_matched(name, pattern)]
        if not found:
            raise UserError(
                f"freeze={pattern} is the name of no weight of {type(model).__name__}: "
                f"{nearest(pattern, (place for name in named for place in _places(name)))}"
            )
        for name in found:
            named[name].requires_grad_(False)
    if named and not any(weight.requires_grad for weight in named.values()):
        raise UserError("freeze leaves nothing to train: leave something out of it")


def is_matched(name: str, pattern: str) -> bool:
    """Whether a dotted name, or what it is in, matches a pattern."""
    return any(fnmatchcase(place, pattern) for place in _places(name))


def trained_in_words(model: nn.Module) -> str:
    """How many parameters a model has, and how many of them are trained."""
    total = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return f"{total:,} parameters" + (f" ({trained:,} trained)" if trained < total else "")


def _places(name: str) -> list[str]:
    """A name and what it is in: "a.b.c", "a.b", "a"."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
