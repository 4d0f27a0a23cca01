"""What an example costs a device, from the config alone: for its tokens, and for attention."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from everytoken.data.balance import Work

WIDTHS = ("hidden_size", "d_model", "n_embd", "dim")
"""What configs on the Hugging Face hub call the width."""

USUAL_WIDTH = 1024
"""Of models that don't say."""


def work_of(cfg: DictConfig) -> Work:
    """How attention compares with the other layers of the run's model, by its width.

    A layer of width D has about 12 D² products a token; a pair of tokens costs 2 D, and a causal
    model has half as many pairs. The output layer isn't counted.
    """
    model: Mapping[str, Any] = cfg.get("model") or {}  # data can be prepared without
    theirs = model.get("config")
    names = [theirs.get(name) for name in WIDTHS] if isinstance(theirs, Mapping) else []
    found = [model.get("width"), *names, USUAL_WIDTH]
    width = next(width for width in found if isinstance(width, int) and width > 0)
    window = model.get("window")
    return Work(
        even_tokens=(12 if cfg.task.get("shape") == "decoder" else 6) * width,
        window=window if isinstance(window, int) else None,
    )
