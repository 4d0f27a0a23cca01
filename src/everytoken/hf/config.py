"""Sizes of models of the Hugging Face world, as config.json tells them.

Only what is asked for imports transformers, which the extra `hf` installs.
"""

import json
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from everytoken.errors import UserError, one_line
from everytoken.runtime.console import install

HFConfig = dict[str, Any]
"""What config.json says, with the defaults of its kind of model; plain values only."""


def transformers() -> Any:
    """The library, without its bars and its advice.

    Raises:
        UserError: it isn't installed.
    """
    try:
        library = import_module("transformers")
    except ImportError as error:
        raise UserError(f"models of Hugging Face need a package: {install('hf')}") from error
    library.utils.logging.disable_progress_bar()
    library.utils.logging.set_verbosity_error()
    return library


def read_config(place: str) -> HFConfig:
    """The config of a model; where its generation config names several ends, with all of them.

    Args:
        place: a folder with a config.json, or a name on the Hugging Face hub.

    Raises:
        UserError: there is none, or none that transformers knows.
    """
    if _is_path(place) and not Path(place).expanduser().joinpath("config.json").is_file():
        raise UserError(
            f"no config.json in {place}: give a folder that save_pretrained made, or a name on the "
            "Hugging Face hub"
        )
    hf = transformers()
    try:
        config = hf.AutoConfig.from_pretrained(local(place), trust_remote_code=False)
    except Exception as error:  # the library has many kinds of it
        raise UserError(f"can't use the model {place}: {one_line(error, 300)}") from error
    found = json.loads(config.to_json_string(use_diff=False))
    with suppress(OSError, ValueError):  # many models have no generation_config.json
        ends = hf.GenerationConfig.from_pretrained(local(place)).eos_token_id
        found["eos_token_id"] = ends if isinstance(ends, list) else found.get("eos_token_id")
    return found


def end_ids(config: HFConfig) -> tuple[int, ...]:
    """All tokens after which a model's sequences are over: instruct models have several."""
    inner = config.get("text_config") or {}
    ids = config.get("eos_token_id", inner.get("eos_token_id"))
    return tuple(ids) if isinstance(ids, list) else () if ids is None else (ids,)


def resolve(place: str | None, key: str | None = None) -> Any:
    """`${hf_config:PLACE}` in YAML is a model's config, `${hf_config:PLACE,KEY}` a value of it.

    So a run's own config has all sizes, and outlives the model that it began with. Of no place,
    and of a key that isn't there, it is null.
    """
    if place is None:
        return None
    config = read_config(place)
    return config if key is None else config.get(key)


OmegaConf.register_new_resolver("hf_config", resolve, replace=True)


def check_place(model: DictConfig) -> None:
    """Refuse a model config whose folder or name names no model.

    Raises:
        UserError: with what to give.
    """
    if "config" not in model or not OmegaConf.is_interpolation(model, "config"):
        return  # the config of a run that was made already
    for key in ("path", "name_or_path"):
        if key in model:
            read_config(model[key])


def local(place: str) -> str:
    """A place with its ~ expanded."""
    return str(Path(place).expanduser()) if _is_path(place) else place


def check_weights(place: str) -> None:
    """Refuse a folder without weights in safetensors: a pickle could run anyone's code.

    Raises:
        UserError: with what to do.
    """
    folder = Path(local(place))
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        found = ", ".join(sorted(f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt")))
        raise UserError(
            f"{place} has no weights in safetensors{f', only {found}' if found else ''}: pickled "
            "weights are not read; save them anew with save_pretrained of a recent transformers"
        )


def _is_path(place: str) -> bool:
    return place.startswith(("/", "./", "../", "~")) or Path(place).is_dir()


LLAMA_LIKE = ("llama", "mistral")


def decoder_sizes(config: HFConfig) -> dict[str, Any]:
    """The arguments of our `Transformer` that give the decoder of a Llama or Mistral config.

    Raises:
        UserError: what this decoder can't do.
    """
    kind, heads, width = (config[k] for k in ("model_type", "num_attention_heads", "hidden_size"))
    if kind not in LLAMA_LIKE:
        raise UserError(
            f"model=llama_from_hf reads {' and '.join(LLAMA_LIKE)}, not {kind}: use model=hf"
        )
    rope = config.get("rope_parameters") or {}
    for what, value, ours in (
        ("attention_bias", config.get("attention_bias") or False, False),
        ("mlp_bias", config.get("mlp_bias") or False, False),
        ("hidden_act", config.get("hidden_act"), "silu"),
        ("rope_type", rope.get("rope_type", "default"), "default"),
        ("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0), 1.0),
        ("head_dim", config.get("head_dim") or width // heads, width // heads),
        ("quantization_config", config.get("quantization_config"), None),
    ):
        if value != ours:
            raise UserError(
                f"model=llama_from_hf can't do {what}={value} (only {ours}): use model=hf"
            )
    window = config.get("sliding_window")
    return {
        "vocabulary": config["vocab_size"],
        "layers": config["num_hidden_layers"],
        "width": width,
        "heads": heads,
        "key_value_heads": config["num_key_value_heads"],
        "ffn_width": config["intermediate_size"],
        "tie_embeddings": config["tie_word_embeddings"],
        "rope_base": rope["rope_theta"],
        "norm_eps": config["rms_norm_eps"],
        # There a window counts the token itself, here the positions that it looks back.
        "window": None if kind == "llama" or window is None else window - 1,
    }
