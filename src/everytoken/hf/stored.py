"""Our decoder and encoder out of a folder that they were exported to, whatever its sizes."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from everytoken.errors import UserError
from everytoken.hf.config import LLAMA_LIKE, decoder_sizes, read_config
from everytoken.hf.llama import ALIKE, FUSED, Weights, read_weights
from everytoken.model.transformer import Transformer

ENCODER = "eurobert"

HEADS = ("lm_head", "classifier", "score")
"""Names that an output layer has there."""


def read_stored(model: nn.Module, folder: Path) -> tuple[Weights, dict[str, Any]]:
    """Weights under our names, and the sizes of the model that they are of.

    Args:
        model: that is to have them.
        folder: with config.json and safetensors.

    Raises:
        UserError: a model that isn't ours, or is of another kind.
    """
    config = read_config(str(folder))
    kind = config["model_type"]
    if not isinstance(model, Transformer) or kind not in (*LLAMA_LIKE, ENCODER):
        raise UserError(
            f"init_from={folder} holds a model of transformers ({kind}): begin with it by model=hf "
            f"model.name_or_path={folder} tokenizer=pretrained tokenizer.path={folder}"
        )
    stack = "encoder" if kind == ENCODER else "decoder"
    sizes = decoder_sizes({**config, "model_type": "llama"} if kind == ENCODER else config)
    found = _renamed(read_weights(str(folder)), stack)
    if sizes["tie_embeddings"] and not any(name.startswith("head.") for name in found):
        found["head.weight"] = found["embedding.weight"]
    return found, sizes | {"shape": stack}


def _renamed(weights: Weights, stack: str) -> Weights:
    """Under our names; what has none keeps its own."""
    names: dict[str, tuple[str, ...]] = {"embedding": ("model.embed_tokens",)}
    names[f"{stack}.norm"] = ("model.norm",)
    layers = {int(m[1]) for name in weights if (m := re.match(r"model\.layers\.(\d+)\.", name))}
    for i in layers:
        for ours, theirs in {**ALIKE, **FUSED}.items():
            parts = (theirs,) if isinstance(theirs, str) else theirs
            names[f"{stack}.blocks.{i}.{ours}"] = tuple(f"model.layers.{i}.{p}" for p in parts)
    left = {name: tensor for name, tensor in weights.items() if "rotary_emb" not in name}
    found: Weights = {}
    for ours, theirs in names.items():
        parts = [f"{part}.weight" for part in theirs]
        if all(part in left for part in parts):
            found[f"{ours}.weight"] = torch.cat([left.pop(part) for part in parts])
    heads = {name: name.partition(".") for name in left}
    found |= {
        f"head.{rest}" if first in HEADS else name: left[name]
        for name, (first, _, rest) in heads.items()
    }
    return found
