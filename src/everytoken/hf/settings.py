"""What settings of models from elsewhere may be; of transformers only what is asked for is used."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from everytoken.errors import UserError, check_number
from everytoken.hf.config import check_place, decoder_sizes
from everytoken.model.settings import check_in_training
from everytoken.model.sizes import check_checkpointed


def check_llama(model: DictConfig) -> None:
    """Refuse a model that our decoder can't take the weights of.

    Raises:
        UserError: with what to do.
    """
    check_place(model)
    check_checkpointed(model.checkpoint_activations, decoder_sizes(model.config)["layers"])
    check_in_training(model)


def check_hugging_face(model: DictConfig) -> None:
    """Refuse a model that isn't there, or a setting that it doesn't have.

    Raises:
        UserError: with what to do.
    """
    check_place(model)
    if not isinstance(every := model.checkpoint_activations, bool):
        raise UserError(
            "model.checkpoint_activations of model=hf must be true or false (it is for "
            f"all layers or none), got {every!r}"
        )


def check_lora(adapter: Mapping[str, Any]) -> None:
    """Refuse arguments of `lora` that make no sense.

    Raises:
        UserError: the first of them.
    """
    check_number("adapter.rank", adapter["rank"], int, low=1)
    check_number("adapter.alpha", adapter["alpha"], float, low=0)
    check_number("adapter.dropout", adapter["dropout"], float, low=0, below=1)
    targets = adapter["targets"]
    names = [targets] if isinstance(targets, str) else targets
    is_list = isinstance(names, Sequence) and all(isinstance(n, str) and n for n in names)
    if adapter["alpha"] == 0 or (names is not None and not (is_list and names)):
        key = "targets" if adapter["alpha"] else "alpha"
        what = (
            "names of linear layers, as [query,key_value], or null"
            if key == "targets"
            else "above 0"
        )
        raise UserError(f"adapter.{key} must be {what}, got {adapter[key]!r}")


CHECKS = {"lora": check_lora, "HuggingFace": check_hugging_face, "llama_from_hf": check_llama}
"""By the name of the part."""
