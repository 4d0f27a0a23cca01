"""What models give whose matrices two ranks split, and what they give whole."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh

from everytoken.data.collate import filler
from everytoken.decoding.beam_search import BeamSearch
from everytoken.decoding.generate import Decoding, beginnings, generate
from everytoken.decoding.sampling import Greedy
from everytoken.model.block import Block
from everytoken.model.tensor_parallel import NAME, split
from everytoken.model.transformer import Transformer
from everytoken.runtime.world import global_rank
from everytoken.training.distributed import whole
from support.helpers import make_batch, make_model

MODELS: dict[str, dict[str, Any]] = {
    "encoder_decoder": {"shape": "encoder_decoder"},
    "decoder": {"shape": "decoder", "window": 2},
    "encoder": {"shape": "encoder", "checkpoint_activations": True, "attention": "padded"},
    "dropout": {"shape": "decoder", "dropout": 0.3},
    "classes": {"shape": "encoder", "classes": 3, "per_sequence": True},
}


def whole_model(name: str) -> Transformer:
    return make_model(**MODELS[name]).double()


def split_models(folder: str) -> None:
    """Each of two ranks measures all of them."""
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=(NAME,))
    found = {}
    for name in MODELS:
        model = whole_model(name)
        for part in (*filter(is_block, model.modules()), model):
            split(part, mesh)
        found[name] = measured(model)
    torch.save(found, Path(folder) / f"{global_rank()}.pt")
    torch.distributed.destroy_process_group()


def is_block(part: torch.nn.Module) -> bool:
    return isinstance(part, Block)


def measured(model: Transformer) -> dict[str, Any]:
    """Hidden states, gradients, also of a filler, and what is generated."""
    with_source = model.encoder is not None and model.decoder is not None
    batch = make_batch([3, 5, 2], with_source=with_source)
    torch.manual_seed(5)
    hidden = model(batch)
    model.head(hidden).square().sum().backward()
    model(filler(0, with_source=with_source)).sum().backward()
    tokens = []
    if model.decoder is not None:
        model.eval()
        kinds: list[Decoding] = [Greedy(), BeamSearch(beams=2, length_penalty=1.0)]
        for kind in kinds:
            prompts, limits = beginnings(batch), {"end_id": 2, "max_new_tokens": 6}
            tokens.append(generate(model, model.head, prompts, kind, **limits))
    gradients = {n: whole(p.grad) for n, p in model.named_parameters() if p.grad is not None}
    return {"hidden": hidden.detach(), "tokens": tokens, "gradients": gradients}
