"""everytoken: every token counts once.

The public names below load on first use, so that importing the package (which the command line
does before it has checked a config) doesn't import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everytoken.batch import IGNORE_INDEX, Batch
    from everytoken.collate import Example
    from everytoken.loss import masked_cross_entropy
    from everytoken.metrics import ExactMatch, MaskedAccuracy, Perplexity
    from everytoken.model import Transformer
    from everytoken.module import TokenModule

_HOME = {
    "IGNORE_INDEX": "batch",
    "Batch": "batch",
    "Example": "collate",
    "masked_cross_entropy": "loss",
    "MaskedAccuracy": "metrics",
    "ExactMatch": "metrics",
    "Perplexity": "metrics",
    "Transformer": "model",
    "TokenModule": "module",
}

__all__ = [
    "IGNORE_INDEX",
    "Batch",
    "ExactMatch",
    "Example",
    "MaskedAccuracy",
    "Perplexity",
    "TokenModule",
    "Transformer",
    "masked_cross_entropy",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'everytoken' has no attribute {name!r}")
    return getattr(import_module(f"everytoken.{_HOME[name]}"), name)
