"""Every setting is described, has its default in one place, and is asked for by its own name."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from everytoken.config.hints import ANSWERS
from everytoken.config.keys import (
    READ,
    check_keys,
    check_read,
    conf_dir,
    did_you_mean,
    key_paths,
    top_keys,
)
from everytoken.errors import UserError
from support.helpers import composed


def test_every_setting_says_what_it_is():
    for file in conf_dir().rglob("*.yaml"):
        lines = file.read_text(encoding="utf-8").splitlines()
        first = next(line for line in lines if not line.startswith("# @package"))
        described = first.startswith("#") or file.parent.name in ("task", "optimizer", "scheduler")
        assert described, f"{file} doesn't say what it chooses"


def test_a_default_is_set_in_one_place():
    """Classes that YAML configures have no defaults of their own for what YAML sets.

    But for those that leave a feature off, which whoever writes Python needs not type.
    """
    off = (inspect.Parameter.empty, None, 0, 1, False, "auto")
    found = 0
    for file in conf_dir().rglob("*.yaml"):
        cfg = OmegaConf.load(file)
        assert isinstance(cfg, DictConfig)
        for node in [cfg, *(cfg.get(key) for key in ("corpus", "objective"))]:
            target = node.get("_target_") if isinstance(node, DictConfig) else None
            if target is not None and target.startswith("everytoken."):
                for parameter in inspect.signature(get_object(target)).parameters.values():
                    if parameter.name in node:
                        assert parameter.default in off, f"{target}: {parameter.name}"
                        found += 1
    assert found > 15


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("trainer.max_step", "trainer.max_steps"),
        ("dropout", "model.dropout"),
        ("modl", "model"),
        ("modle", "model"),
        ("data.corpora", "data.corpus"),
        ("devices", "trainer.devices"),
        ("model.dropuot", "model.dropout"),
        ("max_steps", "trainer.max_steps"),
        ("data.microbatch_token", "data.microbatch_tokens"),
    ],
)
def test_a_misspelt_key_is_answered_with_the_nearest_real_one(key: str, nearest: str):
    known = list(key_paths(composed()))
    assert did_you_mean(key, known) == f": did you mean {nearest}?"


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("trainer.accumulate_grad_batches", "data.microbatch_tokens"),
        ("gradient_accumulation_steps", "data.microbatch_tokens"),
        ("trainer.precision", "precision=bf16"),
        ("gpus", "trainer.devices"),
        ("trainer.fast_dev_run", "debug=fast"),
        ("trainer.overfit_batches", "debug=overfit"),
        ("trainer.check_val_every_n_epoch", "trainer.val_check_interval"),
        ("trainer.profiler", "callbacks.machine_use"),
        ("trainer.deterministic", "on CPUs a run is so"),
        ("trainer.detect_anomaly", "trainer.skip_nonfinite_steps"),
        ("callbacks.last_checkpoint.every_n_epochs", "ModelCheckpoint with save_top_k=-1"),
        ("scheduler.min_lr_ratio", "scheduler.final_fraction"),
        ("layerwise_lr_decay", "parameter_groups=by_name"),
        ("trainer.limit_train_batches", "data.limit_examples"),
        ("model.d_model", "model.width"),
        ("learning_rate", "optimizer.lr"),
        ("logger.name", "logger=wandb"),
        ("callbacks.best_checkpoint.save_top_k", "ModelCheckpoint"),
        ("num_train_epochs", "trainer.max_epochs"),
        ("evaluation_strategy", "trainer.val_check_interval"),
        ("eval_strategy", "trainer.val_check_interval"),
        ("per_device_train_batch_size", "data.batch_size"),
        ("per_device_eval_batch_size", "data.microbatch_tokens"),
        ("gradient_checkpointing", "model.checkpoint_activations"),
        ("lr_scheduler_type", "scheduler=warmup_cosine"),
        ("warmup_steps", "scheduler.warmup_fraction"),
        ("output_dir", "hydra.run.dir"),
        ("resume_from_checkpoint", "resume=DIR"),
        ("predict_with_generate", "task.max_new_tokens"),
        ("generation_num_beams", "decoding.beams"),
        ("model_name_or_path", "model.name_or_path"),
        ("tokenizer_name", "tokenizer.path"),
        ("dataset_name", "data.name"),
        ("dataset_config_name", "data.config"),
        ("train_file", "data.path"),
        ("validation_file", "data.val_path"),
        ("test_file", "data.test_path"),
        ("max_train_samples", "data.limit_examples"),
        ("validation_split_percentage", "data.val_fraction"),
        ("text_column", "data.source"),
        ("summary_column", "data.target"),
        ("text_column_name", "data.text"),
        ("label_column_name", "data.label"),
        ("source_lang", "data.source"),
        ("target_lang", "data.target"),
        ("block_size", "task.objective.window_tokens"),
        ("max_seq_length", "task.objective.max_tokens"),
        ("max_source_length", "task.objective.max_tokens"),
        ("val_max_target_length", "task.objective.max_tokens"),
        ("mlm_probability", "task.objective.corrupted_fraction"),
        ("num_beams", "decoding.beams"),
        ("label_all_tokens", "task.objective.label"),
        ("lora_r", "adapter.rank"),
    ],
)
def test_a_word_of_others_is_answered_with_ours(word: str, answer: str):
    assert answer in did_you_mean(word, key_paths(composed()))


@pytest.mark.parametrize(
    "word",
    ["label_names", "deepspeed", "push_to_hub", "hub_model_id", "line_by_line", "source_prefix"],
)
def test_a_word_without_a_counterpart_gets_no_hint(word: str):
    assert did_you_mean(word, key_paths(composed())) == ": see --cfg job for all keys"


def test_no_hint_is_wrong():
    """Every argument of Lightning's Trainer and of transformers' Seq2SeqTrainingArguments.

    Each is a key here, or in the table, or has the very name of a key elsewhere; or it gets no
    hint at all.
    """
    transformers = pytest.importorskip("transformers")
    known = list(key_paths(composed()))
    words = {field.name for field in fields(transformers.Seq2SeqTrainingArguments)}
    words |= {*inspect.signature(L.Trainer.__init__).parameters} - {"self"}
    assert len(words) > 150
    for word in words:
        for place in ("", "trainer.", "model."):
            hint = did_you_mean(f"{place}{word}", known)
            elsewhere = [key for key in known if key.rpartition(".")[2] == word]
            is_none = hint == ": see --cfg job for all keys"
            has_name = any(f"{key}?" in hint for key in elsewhere) or f"{place}{word}" in known
            assert is_none or has_name or ANSWERS.get(word) == hint, (place, word, hint)


def test_an_answer_names_keys_and_choices_that_there_are():
    known = set(key_paths(composed()))
    for file in conf_dir().glob("*/*.yaml"):  # of choices that an answer names beside a key
        known |= {*key_paths(OmegaConf.load(file), f"{file.parent.name}.")}
    for answer in filter(None, ANSWERS.values()):
        for key in re.findall(r"[a-z_]+(?:\.[a-z_]+)+", answer.replace("hydra.run.dir", "")):
            assert key in known, answer
        for group, choice in re.findall(r"\b([a-z_]+)=([a-z_0-9]+)", answer):
            assert (conf_dir() / group / f"{choice}.yaml").is_file() or choice == "null", answer


def test_a_key_like_no_other_is_answered_with_where_to_look():
    assert did_you_mean("xyzzy", key_paths(composed())) == ": see --cfg job for all keys"


@pytest.mark.bad_input
def test_added_keys_are_refused_unless_some_yaml_has_them():
    def check(*overrides: str) -> None:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("train", list(overrides), return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            with_task_only = cfg.copy()
            OmegaConf.set_struct(with_task_only, False)
            del with_task_only["hydra"]
            check_keys(with_task_only)

    check("++trainer.max_steps=7")
    check("trainer.max_steps=7")
    check("+optimizer.amsgrad=true")
    check(
        "+callbacks.mine._target_=lightning.pytorch.callbacks.Timer", "+callbacks.mine.duration=1"
    )
    with pytest.raises(UserError, match=r"optimizer\.amsgrat.*optimizer\.amsgrad"):
        check("+optimizer.amsgrat=true")
    with pytest.raises(UserError, match=r"callbacks\.mine"):
        check("+callbacks.mine.duration=1")
    with pytest.raises(UserError, match=r"optimizer\.weigth_decay.*optimizer\.weight_decay"):
        check("+optimizer.weigth_decay=0.1")
    with pytest.raises(UserError, match=r"unknown key nothing_like_it"):
        check("++nothing_like_it=1")


@pytest.mark.parametrize(
    "file", sorted(conf_dir().glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}={file.stem}"
)
def test_every_key_of_every_yaml_is_read(file: Path):
    """By who is called with it, by who refers to it, or by the engine."""
    group, raw = file.parent.name, OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(raw, dict)
    raw.pop("defaults", None)
    text = file.read_text(encoding="utf-8")
    if "@package _global_" in text:
        tops = top_keys("train")
        assert all(key in tops or key == "hydra" for key in raw)
        return
    if group in READ:
        check_read(DictConfig({group: raw}))
    for part in (raw, *raw.values()):
        target = part.get("_target_") if isinstance(part, dict) else None
        if target and not target.startswith("torch."):
            check_signature(get_object(target), part)


def check_signature(code: Any, part: Mapping[Any, Any]) -> None:
    parameters = inspect.signature(code).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        assert {*part} - {"_target_"} <= {*parameters}


@pytest.mark.bad_input
@pytest.mark.parametrize("group", READ)
def test_a_key_of_a_yaml_that_nothing_reads_is_refused(group: str):
    check_read(composed())
    key = READ[group][-1]
    wanted = rf"unknown key {group}\.{key}x: did you mean {group}\.{key}\?"
    with pytest.raises(UserError, match=wanted):
        check_read(composed(f"+{group}.{key}x=1"))


def test_conf_is_found_beside_the_package_or_inside_it():
    assert (conf_dir() / "train.yaml").is_file()
    assert isinstance(conf_dir(), Path)
