"""Configs that were written for an older version, as this version reads them."""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

MOVED = {
    "everytoken.beam.BeamSearch": "everytoken.decoding.BeamSearch",
    "everytoken.best.BestCheckpoint": "everytoken.callbacks.BestCheckpoint",
    "everytoken.choose.Greedy": "everytoken.decoding.Greedy",
    "everytoken.choose.Sampling": "everytoken.decoding.Sampling",
    "everytoken.dates.Dates": "everytoken.corpora.Dates",
    "everytoken.hub.Hub": "everytoken.corpora.Hub",
    "everytoken.llama.llama_from_hf": "everytoken.hf.llama_from_hf",
    "everytoken.machine.MachineUse": "everytoken.callbacks.MachineUse",
    "everytoken.metrics.Bleu": "everytoken.training.Bleu",
    "everytoken.metrics.Chrf": "everytoken.training.Chrf",
    "everytoken.metrics.MaskedAccuracy": "everytoken.training.MaskedAccuracy",
    "everytoken.objective.CausalLM": "everytoken.data.CausalLM",
    "everytoken.objective.MaskedLM": "everytoken.data.MaskedLM",
    "everytoken.objective.Seq2Seq": "everytoken.data.Seq2Seq",
    "everytoken.pairs.Pairs": "everytoken.corpora.Pairs",
    "everytoken.predictions.ShowPredictions": "everytoken.callbacks.ShowPredictions",
    "everytoken.pretrained.pretrained": "everytoken.tokenizer.from_pretrained",
    "everytoken.progress.TrainingProgress": "everytoken.callbacks.TrainingProgress",
    "everytoken.pydoc.Pydoc": "everytoken.corpora.Pydoc",
    "everytoken.report.callback.WriteReport": "everytoken.report.WriteReport",
    "everytoken.saving.LastCheckpoint": "everytoken.callbacks.LastCheckpoint",
    "everytoken.schedule.constant": "everytoken.training.constant",
    "everytoken.schedule.warmup_cosine": "everytoken.training.warmup_cosine",
    "everytoken.text.Text": "everytoken.corpora.Text",
}
"""`_target_`s of configs that were written before the package had rooms. That of the Transformer,
those of learned tokenizers and that of models of Hugging Face are what they were."""

OURS = {
    "lightning.pytorch.callbacks.EMAWeightAveraging": {
        "_target_": "everytoken.callbacks.ExponentialMovingAverage",
        "warm_up": False,
    },
    "lightning.pytorch.callbacks.WeightAveraging": {
        "_target_": "everytoken.callbacks.AveragedWeights",
    },
}
"""Lightning's averages of the weights, which runs of older versions name: the same averages, but
that the first, random weights are never validated and kept in the place of one."""

ADDED = {
    "decoding": {"_target_": "everytoken.decoding.Greedy"},
    "parameter_groups": {"_target_": "everytoken.training.parameter_groups"},
    "init_from": None,
    "freeze": None,
    "adapter": {},
}
"""What came later, with what runs did before it could be chosen."""

ADDED_TO_DATA = {"curriculum_epochs": 0, "most_held_out": None, "shuffle_blocks": None}
"""The same, of what every corpus shares."""

ADDED_TO_TRAINER = {
    "sharded_checkpoints": False,
    "async_checkpoints": False,
    "tensor_parallel": 1,
}
"""The same, of how and where a run is trained."""

RECOMPUTED = {"checkpoint_activations": False}
SENTINELS = {"sentinels": 0}
CAUSAL = {"two_way": False, "fields": None}

ARGUMENTS = {
    "everytoken.corpora.Hub": {"rows": None},
    "everytoken.corpora.Mix": {"second": None},
    "everytoken.model.Transformer": RECOMPUTED,
    "everytoken.hf.HuggingFace": RECOMPUTED,
    "everytoken.hf.llama_from_hf": RECOMPUTED,
    "everytoken.data.PrefixLM": CAUSAL,
    "everytoken.tokenizer.train_char": SENTINELS,
    "everytoken.tokenizer.train_byte": SENTINELS,
    "everytoken.tokenizer.train_bpe": {**SENTINELS, "sample_megabytes": None},
}
"""The same of arguments that a part takes since, by its `_target_`."""

OF_WANDB = re.compile(
    r"^([+~]*logger\.)(?=(project|entity|group|job_type|tags|notes|mode|predictions|save_diff"
    r"|log_checkpoints|keep_checkpoints|api_key)(=|$))"
)
"""Keys of the one logger that a run could have, before each had a place of its own."""


def moved_key(override: str) -> str:
    """The same override, with the key's name of this version."""
    return OF_WANDB.sub(r"\1wandb.", override)


def up_to_date(cfg: DictConfig) -> DictConfig:
    """The same config, in the names of this version."""
    values = _renamed(OmegaConf.to_container(cfg))
    if isinstance(logger := values.get("logger"), dict):
        values["logger"] = _by_name(logger)
    if "model" in values:  # a whole config
        values = {**ADDED, "module": _module(values), **values}
        values["data"] = {**ADDED_TO_DATA, **values.get("data", {})}
        values["trainer"] = {**ADDED_TO_TRAINER, **values.get("trainer", {})}
    new = OmegaConf.create(values)
    OmegaConf.set_struct(new, OmegaConf.is_struct(cfg))
    return new


def _by_name(logger: dict[str, Any]) -> dict[str, Any]:
    """Loggers by name; one whose YAML doesn't name it is called after its code."""
    if "_target_" not in logger:
        return logger
    named = {key: part for key, part in logger.items() if isinstance(part, dict)}
    named = {key: part for key, part in named.items() if "_target_" in part}
    one = {key: value for key, value in logger.items() if key not in named}
    if one["_target_"] is None:
        return named
    return {**named, str(one["_target_"]).rpartition(".")[2].removesuffix("_logger"): one}


def _module(values: dict[str, Any]) -> dict[str, Any]:
    loss = {key: values.get(key, 0.0) for key in ("label_smoothing", "z_loss")}
    return {"_target_": "everytoken.training.TokenModule", **loss}


def _renamed(node: Any) -> Any:
    if isinstance(node, list):
        return [_renamed(value) for value in node]
    if not isinstance(node, dict):
        return node
    values = {key: _renamed(value) for key, value in node.items()}
    if (target := values.get("_target_")) in MOVED:
        values["_target_"] = MOVED[target]
    if target in OURS:
        values = OURS[target] | {key: value for key, value in values.items() if key != "_target_"}
    values = {**ARGUMENTS.get(str(values.get("_target_")), {}), **values}
    if values.get("attention") == "grouped":
        values["attention"] = "bucketed"
    return values
