"""Low-rank adapters (Hu et al. 2021) on the linear layers of any model, by peft.

Shapes of a layer (O, I) of rank r: A (r, I) and B (O, r), which is zero at first.
"""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everytoken.errors import UserError, nearest
from everytoken.hf.llama import part_names
from everytoken.hf.model import HuggingFace
from everytoken.hf.network import tell_new
from everytoken.model.transformer import Transformer
from everytoken.runtime.console import install

NAME = "default"
"""What peft calls the one adapter."""


def peft() -> Any:
    """The library.

    Raises:
        UserError: it isn't installed.
    """
    try:
        return import_module("peft")
    except ImportError as error:
        raise UserError(f"adapter=lora needs a package: {install('adapter')}") from error


def lora(
    model: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str] | None = None,
) -> None:
    """Give linear layers of a model an adapter each; of all its weights only these are trained.

    Args:
        model: it is changed in place.
        rank: r, at least 1.
        alpha: B A x is multiplied by alpha / rank.
        dropout: probability of dropping a channel of what goes into A, in training.
        targets: names of layers, their ends ("query"), or patterns; None for all but the head.

    Raises:
        UserError: peft isn't there, or a target that is no such layer.
    """
    library = peft()
    names = chosen(model, targets)
    config = library.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names, bias="none"
    )
    library.inject_adapter_in_model(config, model, NAME)


def chosen(model: nn.Module, targets: Sequence[str] | None) -> list[str]:
    """Full names of the linear layers that are meant.

    Raises:
        UserError: a target of none.
    """
    left_out = {id(part) for head in head_parts(model) for part in head.modules()}
    parts = model.named_modules()
    linear = [n for n, part in parts if type(part) is nn.Linear and id(part) not in left_out]
    if targets is None:
        return linear
    found: list[str] = []
    for target in [targets] if isinstance(targets, str) else targets:
        fitting = [n for n in linear if n.endswith(f".{target}") or fnmatchcase(n, target)]
        if not fitting:
            ends = dict.fromkeys(name.rpartition(".")[2] for name in linear)
            raise UserError(
                f"adapter.targets: {target} is no linear layer of {type(model).__name__} (its head "
                f"can't have an adapter): {nearest(target, [*ends, *linear])}"
            )
        found += fitting
    return list(dict.fromkeys(found))


def head_parts(model: nn.Module) -> list[nn.Module]:
    """The output layer; of a network of classes all that comes after the base that others share."""
    if isinstance(model, HuggingFace) and model.classes is not None:
        return [part for part in model.network.children() if part is not model.network.base_model]
    return [getattr(model, "head", nn.Identity())]


def token_parts(model: nn.Module) -> list[nn.Module]:
    """The layers with a row for each token: of what is read, and of what is predicted."""
    if isinstance(model, HuggingFace):
        network = model.network
        found = [network.get_input_embeddings(), network.get_output_embeddings()]
        return [part for part in found if part is not None]
    parts = [getattr(model, name, None) for name in ("embedding", "head")]
    return [part for part in parts if isinstance(part, nn.Module)]


def renew_rows(model: Any, known: int, vocabulary: int, place: str) -> None:
    """Treat tokens as new that stand on rows which a model has to spare, of no token so far.

    Such rows hold anything, zeros often. Each begins as the mean of those of tokens that are known,
    as transformers has it of rows that are appended.

    Args:
        model: with pretrained weights; it is changed in place.
        known: tokens of its own tokenizer.
        vocabulary: of the run's.
        place: of the model, for the log.
    """
    spare = vocabulary - known - model.new_tokens
    if spare <= 0:
        return
    weights = {id(w): w for part in token_parts(model) for w in part.parameters(recurse=True)}
    with torch.no_grad():
        for weight in weights.values():
            weight[known : known + spare] = weight[:known].mean(0)
    model.new_tokens += spare
    tell_new(spare, place)


def layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Names of layers that have an adapter, and they."""
    kind = peft().tuners.lora.LoraLayer
    found = [(name, part) for name, part in model.named_modules() if isinstance(part, kind)]
    yield from found


def without_adapter(model: nn.Module, *, merge: bool) -> None:
    """Make it a plain model again, in place: with what was learned, or as it was before."""
    for name, layer in layers(model):
        if merge:
            layer.merge(safe_merge=True)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer.get_base_layer())


def factors(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """A (r, I) and B (O, r) of each layer that has them, by its name."""
    return {
        name: (layer.lora_A[NAME].weight.detach(), layer.lora_B[NAME].weight.detach())
        for name, layer in layers(model)
    }


def keep_apart(
    learned: Mapping[str, tuple[Tensor, Tensor]],
    model: nn.Module,
    settings: Mapping[str, Any],
    folder: Path,
    base: Path,
) -> None:
    """Write an adapter as peft reads it, under the names that the base has for transformers.

    Args:
        learned: what `factors` gives.
        model: whose they are, without them.
        settings: those of `lora`.
        folder: to write to.
        base: where that model will be.
    """
    library = peft()
    from safetensors.torch import save_file

    parts = part_names(model) if isinstance(model, Transformer) else {}
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in learned.items():
        theirs = parts.get(f"{name}.weight", (f"{name.removeprefix('network.')}.weight",))
        for part, rows in zip(theirs, b.chunk(len(theirs)), strict=True):
            place = part.removesuffix(".weight")
            tensors[f"{place}.lora_A.weight"] = a.clone()
            tensors[f"{place}.lora_B.weight"] = rows.clone()
    names = sorted({name.partition(".lora_")[0] for name in tensors})
    config = library.LoraConfig(
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        lora_dropout=settings["dropout"],
        target_modules=names,
        base_model_name_or_path=str(base),
        inference_mode=True,
    )
    config.save_pretrained(folder)
    whole = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    save_file(whole, folder / "adapter_model.safetensors")
