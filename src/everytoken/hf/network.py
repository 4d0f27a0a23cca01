"""Networks of transformers by the kind of task: which class, and how its weights are read."""

from typing import Any, Literal

import torch
from torch import nn

from everytoken.errors import UserError, one_line
from everytoken.hf.config import HFConfig, check_weights, local, transformers
from everytoken.model.transformer import Shape
from everytoken.runtime.console import log, warn

Kind = Literal["decoder", "encoder", "encoder_decoder", "token_classes", "sequence_classes"]
"""Of a model there: its shape, or what it tells classes of."""

CONFIGS: dict[Kind, str] = {
    "decoder": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "encoder": "MODEL_FOR_MASKED_LM_MAPPING",
    "encoder_decoder": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "token_classes": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
    "sequence_classes": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
}
"""Tables of transformers: which configs such a class takes."""

AUTO_CLASSES: dict[Kind, str] = {
    "decoder": "AutoModelForCausalLM",
    "encoder": "AutoModelForMaskedLM",
    "encoder_decoder": "AutoModelForSeq2SeqLM",
    "token_classes": "AutoModelForTokenClassification",
    "sequence_classes": "AutoModelForSequenceClassification",
}


def kind_of(shape: Shape, classes: int | None, per_sequence: bool) -> Kind:
    """The kind of a model; its arguments are those of `Transformer`.

    Raises:
        UserError: classes of a model that isn't an encoder.
    """
    if not classes:
        return shape
    if shape != "encoder":
        raise UserError(f"classes are told by an encoder, and task.shape={shape}: leave it out")
    return "sequence_classes" if per_sequence else "token_classes"


def positions(network: Any) -> tuple[int, int | None]:
    """The number of a sequence's first position, and of how many there is a vector; None for all.

    The first is not 0 in RoBERTa and its kin. They tell padding by its id, so they are given their
    positions.
    """
    tables = {
        name: table
        for name, table in network.named_modules()
        if isinstance(table, nn.Embedding) and ("position" in name or name.endswith("wpe"))
    }
    first = 0
    for name, table in tables.items():
        if name.endswith("position_embeddings") and table.padding_idx is not None:
            first = table.padding_idx + 1
    known = getattr(network.config, "max_position_embeddings", None) if tables else None
    return first, None if known is None else known - first


def lacking(vocabulary: int, known: int, new: int, place: str, *, told: bool) -> int:
    """How many tokens of a tokenizer a model lacks, which are new; it is told.

    Args:
        vocabulary: of the tokenizer.
        known: of the model.
        new: so many of the tokenizer's last ones may be new.
        place: of the model.
        told: False where it has been.

    Raises:
        UserError: it lacks more.
    """
    lacks = max(0, vocabulary - known)
    if lacks > new:
        raise UserError(
            f"the model of {place} knows {known} tokens and the tokenizer {vocabulary}: use the "
            f"model's own, tokenizer=pretrained tokenizer.path={place}"
        )
    if lacks and told:
        tell_new(lacks, place)
    return lacks


def tell_new(tokens: int, place: str) -> None:
    """Log that rows of so many tokens are made anew, for the model of a place doesn't know them."""
    log(f"made anew: rows of {tokens} special tokens, which the model of {place} doesn't have")


def make_network(
    kind: Kind, place: str, config: HFConfig, pretrained: bool, classes: int | None
) -> Any:
    """A network of transformers, with its weights or random ones; arguments as of `HuggingFace`.

    Raises:
        UserError: transformers has no such model for the kind; weights that aren't what it wants.
    """
    hf = transformers()
    name = config["model_type"]
    auto = getattr(hf, AUTO_CLASSES[kind])
    try:
        made = hf.AutoConfig.for_model(name).from_dict(config)
        if type(made) not in getattr(hf, CONFIGS[kind]):
            raise UserError(f"{name} is no model for this task: {AUTO_CLASSES[kind]} has no such")
        if classes is not None:
            if type(made) not in hf.MODEL_FOR_MASKED_LM_MAPPING or made.is_encoder_decoder:
                raise UserError(
                    f"{name} is no encoder, and classes are told by one, which sees both sides of "
                    "a token: use a model such as BERT"
                )
            made.num_labels = classes
        if kind == "decoder" and type(made) in hf.MODEL_FOR_MASKED_LM_MAPPING:
            made.is_decoder = True  # BERT and its kin would see what comes later
        if not pretrained:
            return auto.from_config(made, dtype=torch.float32, trust_remote_code=False)
        check_weights(place)
        network, info = auto.from_pretrained(
            local(place),
            config=made,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=classes is not None,  # of another number of classes
        )
    except (OSError, ValueError, RuntimeError, KeyError, AssertionError) as error:
        reason = one_line(error, 300)
        raise UserError(f"can't make the model of {place}: {reason}") from error
    missing = sorted(info["missing_keys"])
    if classes is not None:
        missing = _all_but_head(network, info, place, classes)
    if missing:
        warn(f"{len(missing)} weights start at random, {place} has none: {missing[0]} …")
    return network


def _all_but_head(network: Any, info: Any, place: str, classes: int) -> list[str]:
    """Weights that `place` lacks, apart from layers of classes: that these are new is told.

    Raises:
        UserError: another weight has another shape.
    """
    inside = f"{network.base_model_prefix}."
    other = sorted(str(key[0]) for key in info["mismatched_keys"])
    if wrong := [name for name in other if name.startswith(inside)]:
        raise UserError(f"{place}: {wrong[0]} has another shape than config.json says")
    missing = sorted(info["missing_keys"])
    new = sorted(name for name in {*missing, *other} if not name.startswith(inside))
    if new:
        log(f"new layers for {classes} classes, which {place} has none of: {', '.join(new)}")
    return [name for name in missing if name.startswith(inside)]
