"""Special tokens in configs of transformers: what was trained is what each of its files names."""

from collections.abc import Iterator
from typing import Any

from everytoken.runtime.console import warn

Ids = dict[str, int | list[int]]
"""By the names of configs ("eos_token_id", …); several ends are a list."""

LIKE = {"cls_token_id": "bos_token_id", "sep_token_id": "eos_token_id"}
"""A [CLS] is a begin, a [SEP] an end."""

FORCED = ("forced_bos_token_id", "forced_eos_token_id")
"""What transformers would write whatever the model says. We don't."""


def give_ids(network: Any, ids: Ids, hf: Any, first_position: int) -> None:
    """Let a network of transformers, and what is inside of it, name the tokens of its training.

    Only the padding of a network that tells it from text by its id stays: it counts positions from
    there on.

    Args:
        network: its configs are changed.
        ids: what they are to say.
        hf: transformers.
        first_position: see `HuggingFace`.
    """
    padding = network.config.pad_token_id
    if first_position and padding != ids["pad_token_id"]:
        warn(
            f"{type(network).__name__} takes token {padding} for padding when it counts positions, "
            f"and in training {ids['pad_token_id']} was padding: transformers reads texts with the "
            "one in another way; name the token with tokenizer.pad before training"
        )
        ids = {**ids, "pad_token_id": padding}
    for name, id_ in ids.items():
        setattr(network.config, name, id_)
    for config in _configs(network.config):
        for name in (*ids, *LIKE, *FORCED):
            if hasattr(config, name):
                setattr(config, name, ids.get(LIKE.get(name, name)))
    if network.can_generate():
        network.generation_config = hf.GenerationConfig(**ids, do_sample=False)


def _configs(config: Any) -> Iterator[Any]:
    """A config and all inside of it that know tokens; a picture's, say, doesn't."""
    if hasattr(config, "vocab_size"):
        yield config
    for name in config.sub_configs:
        if (part := getattr(config, name, None)) is not None:
            yield from _configs(part)
