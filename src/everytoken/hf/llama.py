"""Our decoder (and encoder) ↔ weights under the names and in the layout of Llama.

There query, key, value, gate and up have a matrix each; here key and value share one, and so do
gate and up. Rotary pairs are the same (channels i and i + W/2), so no row moves.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everytoken.errors import UserError, one_line
from everytoken.hf.config import (
    HFConfig,
    check_weights,
    decoder_sizes,
    end_ids,
    local,
    transformers,
)
from everytoken.hf.network import lacking
from everytoken.model.backends import Backend
from everytoken.model.transformer import Shape, Transformer

Weights = dict[str, Tensor]

ALIKE = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn.down": "mlp.down_proj",
}
"""Parts of a block, and their names in Llama."""

FUSED = {
    "attention.key_value": ("self_attn.k_proj", "self_attn.v_proj"),
    "ffn.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
}
"""Parts of a block that are two in Llama, one above the other."""


def llama_from_hf(
    *,
    shape: Shape,
    vocabulary: int,
    path: str,
    config: HFConfig,
    pretrained: bool,
    dropout: float,
    token_dropout: float,
    attention: Backend,
    checkpoint_activations: bool | int = False,
    classes: int | None = None,
    per_sequence: bool = False,
    new_tokens: int = 0,
) -> Transformer:
    """Our decoder with the sizes and the weights of a Llama (or Mistral).

    Args:
        shape: of the task's model; must be "decoder".
        vocabulary: tokens that the tokenizer knows; the model may know more.
        new_tokens: so many of them, at the end, may be new: it gets rows for those that it lacks.
        path: a folder with safetensors, or a name on the Hugging Face hub.
        config: its config.json.
        pretrained: False for random weights.
        dropout: see `Transformer`.
        token_dropout: see `Transformer`.
        attention: see `Transformer`.
        checkpoint_activations: see `Transformer`.
        classes, per_sequence: see `Transformer`; of an encoder, which this isn't.

    Raises:
        UserError: a model that our decoder can't be, or that doesn't fit task or tokenizer.
    """
    if shape != "decoder":
        raise UserError(f"model=llama_from_hf makes a decoder, no {shape}: use task=causal_lm")
    sizes = decoder_sizes(config)
    new = lacking(vocabulary, sizes["vocabulary"], new_tokens, path, told=pretrained)
    sizes["vocabulary"] += new
    model = Transformer(
        shape=shape,
        dropout=dropout,
        token_dropout=token_dropout,
        attention=attention,
        checkpoint_activations=checkpoint_activations,
        **sizes,
    )
    model.end_ids, model.new_tokens = end_ids(config), new
    if pretrained:
        weights = read_weights(path)
        own = to_llama(model)
        for name in ("model.embed_tokens.weight", "lm_head.weight") if new else ():
            if name in weights and name in own:
                weights[name] = torch.cat([weights[name], own[name][-new:]])
        load_llama(model, weights)
    return model


def load_llama(model: Transformer, weights: Weights) -> None:
    """Fill our model from weights in Llama's layout.

    Raises:
        UserError: a weight is missing, of another shape, or has no place here.
    """
    if is_tied(model):
        weights.pop("lm_head.weight", None)  # some files have it twice
    found: Weights = {}
    for name in to_llama(model):  # the names that there should be
        if name not in weights:
            raise UserError(f"the weights have no {name}, which config.json asks for")
        found[name] = weights.pop(name)
    unknown = [name for name in weights if "rotary_emb" not in name]  # old files have its rates
    if unknown:
        raise UserError(f"the weights have {unknown[0]}, for which this decoder has no place")
    own = model.state_dict()
    with torch.no_grad():
        for name, parts in part_names(model).items():
            new = torch.cat([found[part] for part in parts])
            if new.shape != own[name].shape:
                shapes = f"{tuple(new.shape)} and not {tuple(own[name].shape)}"
                raise UserError(f"{' and '.join(parts)} have shape {shapes}, as config.json says")
            own[name].copy_(new)


def to_llama(model: Transformer) -> Weights:
    """Weights of our decoder or encoder in Llama's layout; without the head if it is tied."""
    own = model.state_dict()
    return {
        part: rows.contiguous()
        for name, parts in part_names(model).items()
        for part, rows in zip(parts, own[name].chunk(len(parts)), strict=True)
    }


def part_names(model: Transformer) -> dict[str, tuple[str, ...]]:
    """Names of our weights, and of those that Llama has for each."""
    stack = "encoder" if model.decoder is None else "decoder"
    blocks = (model.encoder if model.decoder is None else model.decoder).blocks  # pyright: ignore[reportOptionalMemberAccess]
    names: dict[str, tuple[str, ...]] = {"embedding.weight": ("model.embed_tokens.weight",)}
    for i in range(len(blocks)):
        for ours, theirs in {**ALIKE, **FUSED}.items():
            several = (theirs,) if isinstance(theirs, str) else theirs
            names[f"{stack}.blocks.{i}.{ours}.weight"] = tuple(
                f"model.layers.{i}.{part}.weight" for part in several
            )
    names[f"{stack}.norm.weight"] = ("model.norm.weight",)
    return names | _head_names(model)


def is_tied(model: Transformer) -> bool:
    """True if the output layer and the embedding share their weights."""
    return getattr(model.head, "weight", None) is model.embedding.weight


def _head_names(model: Transformer) -> dict[str, tuple[str, ...]]:
    """The same of the output layer; of one of classes, as EuroBERT has them."""
    head = model.head
    if is_tied(model):
        return {}
    if isinstance(head, nn.Sequential):
        layers = {"head.0": "dense", "head.2": "classifier"}
    elif isinstance(head, nn.Linear) and head.bias is not None:
        layers = {"head": "classifier"}
    else:
        return {"head.weight": ("lm_head.weight",)}
    parts = ("weight", "bias")
    return {f"{own}.{p}": (f"{theirs}.{p}",) for own, theirs in layers.items() for p in parts}


def read_weights(place: str) -> Weights:
    """All weights of a folder (or a name on the hub), in float32; safetensors only.

    Raises:
        UserError: there are none, or they can't be read.
    """
    transformers()  # for its message if the extra isn't there
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_weights(place)
    folder = Path(local(place))
    if not folder.is_dir():
        folder = _download(place)
    index = folder / "model.safetensors.index.json"
    try:
        files = ["model.safetensors"]
        if index.is_file():
            files = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        weights: Weights = {}
        for file in files:
            weights |= load_file(folder / Path(file).name)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"can't read the weights of {place}: {error}") from error
    return {name: tensor.float() for name, tensor in weights.items()}


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.safetensors", "*.safetensors.index.json"]
        folder = Path(snapshot_download(name, allow_patterns=patterns))
    except (OSError, ValueError) as error:  # its own errors are among them
        raise UserError(f"can't download {name}: {one_line(error, 300)}") from error
    check_weights(str(folder))
    return folder


def llama_config(model: Transformer, **more: Any) -> Any:
    """The transformers config whose model computes what our decoder or encoder does.

    Args:
        model: a decoder (→ Llama, or Mistral if it has a window) or an encoder (→ EuroBERT).
        more: further values, such as ids of special tokens.

    Raises:
        UserError: an encoder with a window, for which transformers has no model.
    """
    stack = model.encoder if model.decoder is None else model.decoder
    assert stack is not None
    first: Any = stack.blocks[0]
    head_width = first.attention.head_width
    sizes = {
        "vocab_size": model.embedding.num_embeddings,
        "hidden_size": model.embedding.embedding_dim,
        "intermediate_size": first.ffn.down.in_features,
        "num_hidden_layers": len(stack.blocks),
        "num_attention_heads": first.attention.query.out_features // head_width,
        "num_key_value_heads": first.attention.key_value.out_features // (2 * head_width),
        "rms_norm_eps": first.ffn_norm.eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": stack.rotary.base},
        "tie_word_embeddings": is_tied(model),
        "hidden_act": "silu",
        **more,
    }
    window = stack.visibility.window
    hf = transformers()
    if model.decoder is None:
        if window is not None:
            raise UserError("EuroBERT has no window: an encoder with model.window can't go out")
        return hf.EuroBertConfig(**sizes)
    if window is not None:
        return hf.MistralConfig(**sizes, sliding_window=window + 1)
    return hf.LlamaConfig(**sizes)
