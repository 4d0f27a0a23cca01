"""Every choice under conf/ composes and passes the checks; values that make no sense don't."""

import re
import subprocess
import sys
from importlib import import_module
from itertools import combinations, product
from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from everytoken.config.check import checked
from everytoken.config.keys import conf_dir
from everytoken.config.values import (
    PACKAGE,
    check_evaluation,
    check_generation,
    check_training,
)
from everytoken.errors import UserError
from support.helpers import composed

TASKS = [
    ("seq2seq", "dates"),
    ("sft", "chat_dates"),
    ("sequence_classification", "date_languages"),
    ("multi_label_classification", "date_languages"),
    ("token_classification", "date_parts"),
    *((task, "pydoc") for task in ("causal_lm", "masked_lm", "prefix_lm", "span_corruption")),
]
CHATS = ["task=sft", "data=chat_dates"]
TAGS = ["task=token_classification", "data=date_parts"]
TASK_FOR = {
    "messages": "sft",
    "labels": "sequence_classification",
    "tags": "token_classification",
}
"""By a field that only one task has."""
MODELS = ["tiny", "small", "base", "large"]
FROM_ELSEWHERE = {"hf": "name_or_path", "llama_from_hf": "path"}
SPLIT = ["trainer=fsdp_cpu", "trainer.tensor_parallel=2"]
OF_HUB = ["model=hf", "model.name_or_path=x", "model.config={model_type: gpt2}"]
TRAINERS = ["auto", "cpu", "gpu", "ddp", "ddp_cpu", "fsdp", "fsdp_cpu"]
PRECISIONS = ["fp32", "bf16", "fp16", "fp64"]
NEEDED = {
    "data=pairs": ["data.source=a.en", "data.target=a.de"],
    "data=text": ["data.path=a.txt"],
    "adapter=lora": ["init_from=."],
    "data=hub": ["data.name=a/b"],
    "data=chat": ["data.path=a.jsonl"],
    "data=labelled": ["data.path=a.csv"],
    "data=tagged": ["data.path=a.conll"],
    "data=multi30k": ["data.path=folder"],
    "data=tokens": ["data.path=a.bin"],
    "data=mix": ["data.parts={a: {data: dates}, b: {data: dates}}"],
    "data=prepared": ["data.path=folder"],
    "experiment=multi30k": ["data.path=folder"],
    "experiment=chars": ["data.path=a.txt"],
    "experiment=chars_gpu": ["data.path=a.txt"],
    "tokenizer=pretrained": ["tokenizer.path=folder"],
}
"""What has no default, by choice."""
IS_FORK = not (Path(__file__).parents[2] / "src" / "project").is_dir()


def choices(group: str) -> list[str]:
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))


@pytest.mark.skipif(IS_FORK, reason="a fork has choices of its own")
def test_the_groups_below_are_all_there_are():
    assert choices("task") == sorted(task for task, _ in TASKS)
    assert choices("model") == sorted([*MODELS, *FROM_ELSEWHERE, "project"])
    assert choices("trainer") == sorted(TRAINERS)
    assert choices("precision") == sorted(PRECISIONS)


def sets_of_four(task: int) -> list[tuple[str, str, str]]:
    """Model, trainer and precision: over all tasks, any two choices of the four come together."""
    return [
        (MODELS[(task + 2 * i + i // 4) % 4], trainer, PRECISIONS[(task + i) % 4])
        for i, trainer in enumerate(TRAINERS)
    ]


def test_any_two_choices_come_together():
    rows = [(task, *others) for task in range(len(TASKS)) for others in sets_of_four(task)]
    for first, second in combinations(zip(*rows, strict=True), 2):
        assert {*zip(first, second, strict=True)} == {*product(first, second)}


@pytest.mark.parametrize(("task", "data"), TASKS)
def test_every_task_model_trainer_and_precision_compose_and_pass_the_checks(task: str, data: str):
    for model, trainer, precision in sets_of_four(TASKS.index((task, data))):
        cfg = composed(
            f"task={task}",
            f"data={data}",
            f"model={model}",
            f"trainer={trainer}",
            f"precision={precision}",
        )
        check_training(cfg)
        resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        assert isinstance(resolved, dict)
        assert resolved["model"]["shape"] == cfg.task.shape


@pytest.mark.parametrize(
    "choice",
    [
        f"{group.name}={file.stem}"
        for group in sorted(conf_dir().iterdir())
        if group.is_dir() and group.name != "launcher"
        for file in sorted(group.glob("*.yaml"))
    ],
)
def test_every_yaml_is_a_choice_that_composes(choice: str, tmp_path: Path):
    overrides = [choice]
    if choice.startswith("task="):
        overrides.append(f"data={dict(TASKS)[choice.removeprefix('task=')]}")
    if place := FROM_ELSEWHERE.get(choice.removeprefix("model=")):
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
        overrides += [f"model.{place}={tmp_path}", "model.pretrained=false"]
    overrides += NEEDED.get(choice, [])
    cfg = composed(*overrides)
    if IS_FORK and OmegaConf.missing_keys(cfg):
        pytest.skip("a choice of the fork's own, which needs settings")
    fields = getattr(get_object(cfg.data.corpus._target_), "fields", cfg.task.fields)
    if choice.startswith("data=") and "source" not in fields:
        task = next((TASK_FOR[field] for field in fields if field in TASK_FOR), "causal_lm")
        cfg = composed(*overrides, f"task={task}")
    check_training(cfg)


@pytest.mark.bad_input
@pytest.mark.parametrize(("choice", "needed"), NEEDED.items())
def test_a_setting_without_a_default_is_asked_for(choice: str, needed: list[str]):
    for left_out in needed:
        others = [word for word in needed if word != left_out]
        with pytest.raises(UserError) as error:
            checked("train", [choice, *others], check_training)
        key = left_out.split("=")[0]
        assert f"needs {key}: give {key}=VALUE" in str(error.value)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.batch_tokens=100"], ["data.batch_tokens", "data.batch_size", "both"]),
        (["data.batch_size=null"], ["data.batch_tokens", "data.batch_size", "neither"]),
        (["data.batch_size=0"], ["data.batch_size", "at least 1", "0"]),
        (["tokenizer=bpe", "tokenizer.sample_megabytes=0"], ["sample_megabytes", "at least 0.001"]),
        (["tokenizer=bpe", "tokenizer.vocabulary_size=260"], ["vocabulary_size", "261", "260"]),
        (["data.batch_size=1.5"], ["data.batch_size", "whole number", "1.5"]),
        (["data.microbatch_tokens=null"], ["data.microbatch_tokens", "None"]),
        (["trainer.max_steps=abc"], ["trainer.max_steps", "abc"]),
        (["trainer.max_steps=true"], ["trainer.max_steps", "True"]),
        (["optimizer.weight_decay=null"], ["optimizer.weight_decay", "at least 0", "None"]),
        (["trainer.val_check_interval=0ep"], ["trainer.val_check_interval", "0.5ep", "0ep"]),
        (["trainer.val_check_interval=1epo"], ["trainer.val_check_interval", "0.5ep", "1epo"]),
        (["trainer.val_check_interval=0.5"], ["trainer.val_check_interval", "0.5ep", "0.5"]),
        (["trainer.max_steps=null"], ["trainer.max_steps", "trainer.max_epochs"]),
        (["trainer.devices=2"], ["trainer.devices=2", "trainer=ddp"]),
        (["trainer=ddp_cpu", "trainer.devices=1000"], ["trainer.devices=1000", "at most"]),
        (["trainer.devices=0"], ["trainer.devices", "0"]),
        (["trainer.strategy=dp"], ["trainer.strategy", "ddp", "fsdp"]),
        (["trainer.devices=2", "trainer=cpu"], ["trainer.devices=2 needs a strategy"]),
        (["trainer.num_nodes=2", "trainer=cpu"], ["trainer.num_nodes=2 needs a strategy"]),
        (
            ["trainer.sharded_checkpoints=yess"],
            ["trainer.sharded_checkpoints", "auto, true, false"],
        ),
        (["trainer.async_checkpoints=auto"], ["trainer.async_checkpoints", "true, false"]),
        (["trainer.tensor_parallel=0"], ["trainer.tensor_parallel", "at least 1", "0"]),
        (["trainer.tensor_parallel=2"], ["tensor_parallel=2", "trainer=fsdp", "parallel=1"]),
        ([*SPLIT, "trainer.devices=3"], ["tensor_parallel=2", "must divide the 3 processes"]),
        ([*SPLIT, "model.key_value_heads=1"], ["tensor_parallel=2", "model.key_value_heads=1"]),
        ([*SPLIT, "model.ffn_width=99"], ["tensor_parallel=2", "model.ffn_width=99"]),
        ([*SPLIT, "compile=true"], ["tensor_parallel=2", "compile=true"]),
        ([*SPLIT, "optimizer=muon"], ["tensor_parallel=2", "optimizer=muon"]),
        ([*SPLIT, "adapter=lora"], ["tensor_parallel=2", "adapter=lora"]),
        ([*SPLIT, *OF_HUB], ["tensor_parallel=2", "model=hf"]),
        (["trainer.accelerator=tpu"], ["trainer.accelerator", "cuda"]),
        (["trainer.gradient_clip_val=-1"], ["trainer.gradient_clip_val", "-1"]),
        (["trainer.skip_nonfinite_steps=-1"], ["trainer.skip_nonfinite_steps", "-1"]),
        (["data.padding_side=top"], ["data.padding_side", "left", "top"]),
        (["model.width=130"], ["model.width=130", "model.heads=4"]),
        (["model.heads=3"], ["model.heads=3"]),
        (["model.key_value_heads=3"], ["model.key_value_heads=3", "model.heads=4"]),
        (["model.layers=0"], ["model.layers", "0"]),
        (["model.dropout=1"], ["model.dropout", "below 1"]),
        (["label_smoothing=1.0"], ["label_smoothing", "below 1"]),
        (["seed=-1"], ["seed", "-1"]),
        (["seed=5000000000"], ["seed", "5000000000"]),
        (["trainer.gradient_clip_val=0"], ["trainer.gradient_clip_val=0", "null"]),
        (["scheduler.warmup_fraction=5"], ["scheduler.warmup_fraction", "5"]),
        (["model.rope_base=0"], ["model.rope_base", "0"]),
        (["model.window=0"], ["model.window", "0"]),
        (["model.attention=flash"], ["model.attention", "flash", "varlen"]),
        (["z_loss=-1"], ["z_loss", "-1"]),
        (["z_loss=9223372036854775808"], ["z_loss", "at most", "9223372036854775808"]),
        (["module.z_loss=-1"], ["module.z_loss", "-1"]),
        (
            [
                *("task=multi_label_classification", "data=labelled", "data.path=x.csv"),
                "z_loss=1e-4",
            ],
            ["task=multi_label_classification has no softmax", "z_loss=0"],
        ),
        (["module.label_smoothing=1"], ["module.label_smoothing", "below 1"]),
        (["compile=maybe"], ["compile", "maybe"]),
        (["precision=fp16", "optimizer.fused=true"], ["optimizer.fused=true", "precision=fp16"]),
        (["logger.wandb.mode=onlin"], ["logger.wandb.mode", "online"]),
        (["logger.wandb.log_checkpoints=some"], ["log_checkpoints", "none, best, all"]),
        (["logger.wandb.keep_checkpoints=0"], ["logger.wandb.keep_checkpoints", "at least 1"]),
        (["logger.wandb.predictions=-1"], ["logger.wandb.predictions", "-1"]),
        (["scheduler=constant", "scheduler.warmup_fraction=-1"], ["scheduler.warmup_fraction"]),
        (["decoding=beam", "decoding.beams=0"], ["decoding.beams", "at least 1"]),
        (["decoding=sample", "decoding.temperature=0"], ["decoding.temperature", "0.0001"]),
        (["decoding=sample", "decoding.top_p=1.1"], ["decoding.top_p", "at most 1 or null"]),
        (["optimizer.lr=fast"], ["optimizer.lr must be a number", "'fast'"]),
        (["data.num_workers=2000"], ["data.num_workers", "at most"]),
        (["trainer.time_limit=0"], ["trainer.time_limit", "or null"]),
        (["trainer.time_limit=1e30"], ["trainer.time_limit", "at most 100,000"]),
        (["trainer.hang_timeout=1e8"], ["trainer.hang_timeout", "at most 1,000,000"]),
        (["data.most_held_out=0"], ["data.most_held_out", "at least 1"]),
        (["data.shuffle_blocks=[9]"], ["data.shuffle_blocks", "two whole numbers", "[9]"]),
        (["data.shuffle_blocks=[9,0]"], ["data.shuffle_blocks", "above 0"]),
        (
            [
                "data=mix",
                "data.parts={a: {data: dates}, b: {data: dates}}",
                "data.shuffle_blocks=[9,2]",
            ],
            ["a mix", "leave out data.shuffle_blocks"],
        ),
        (
            ["model.layers=9223372036854775808"],
            ["model.layers", "at most 9,223,372,036,"],
        ),
        (["model.norm_eps=0"], ["model.norm_eps must be above 0"]),
        (["name=null"], ["name", "None"]),
        (
            ["task=causal_lm", "data=pydoc", "model.shape=encoder"],
            ["model.shape=encoder", "task.shape=decoder"],
        ),
        (["model.shape=decoder"], ["model.shape=decoder", "task.shape=encoder_decoder"]),
        (
            [
                *("task=causal_lm", "data=pydoc", "task.shape=encoder"),
                "task.objective._target_=support.outside.OwnCausalLM",
            ],
            ["task.shape=encoder", "task.shape=decoder"],
        ),
        (["task.shape=decoder"], ["task.shape=decoder", "task.shape=encoder_decoder"]),
        (
            ["task=causal_lm", "data=pydoc", "task.shape=encoder"],
            ["task.shape=encoder", "task.shape=decoder"],
        ),
        (["~logger"], ["logger"]),
        (
            ["task=causal_lm", "data=pydoc", "task.objective.window_tokens=0"],
            ["task.objective.window_tokens", "0"],
        ),
        (
            ["task=causal_lm", "data=pydoc", "task.objective.stride_tokens=300"],
            ["task.objective.stride_tokens=300", "task.objective.window_tokens=256"],
        ),
        (
            [
                *("task=masked_lm", "data=pydoc", "task.objective.stride_tokens=9"),
                "task.objective.long=truncate",
            ],
            ["task.objective.stride_tokens=9", "task.objective.long=truncate"],
        ),
        (["task.objective.max_tokens=0"], ["task.objective.max_tokens", "0"]),
        (["task.objective.long=windows"], ["task.objective.long", "windows", "truncate, drop"]),
        (
            ["task=causal_lm", "data=pydoc", "task.objective.long=cut"],
            ["task.objective.long", "'cut'", "windows, truncate, drop, refuse"],
        ),
        (
            ["task=masked_lm", "data=pydoc", "task.objective.corrupted_fraction=1.5"],
            ["task.objective.corrupted_fraction", "1.5"],
        ),
        (
            ["task=masked_lm", "data=pydoc", "task.objective.corrupted_fraction=few"],
            ["task.objective.corrupted_fraction", "'few'"],
        ),
        (["task=sft"], ["task=sft", "data=dates", "messages"]),
        ([*CHATS, "task.objective.long=truncate"], ["task.objective.long", "truncate_left"]),
        ([*CHATS, "task.objective.learn=all"], ["task.objective.learn", "last_answer"]),
        ([*CHATS, "task.objective.template=3"], ["task.objective.template", "3"]),
        ([*CHATS, "task.objective.today=now"], ["task.objective.today", "2024-07-26", "'now'"]),
        ([*CHATS, "task.objective.max_tokens=1"], ["task.objective.max_tokens", "1"]),
        ([*TAGS, "task.metrics=3"], ["task.metrics", "by name", "3"]),
        ([*TAGS, "task.metrics='%s'"], ["task.metrics", "by name", "%s"]),
        ([*TAGS, "task.metrics.entities=3"], ["task.metrics.entities", "a part", "3"]),
        (["metrics=bleu", "metrics.bleu=3"], ["metrics.bleu", "a part", "null leaves it out"]),
        (["precision.mode=8-true"], ["precision.mode", "bf16-mixed"]),
        (["task.max_new_tokens=0"], ["task.max_new_tokens", "0"]),
        (
            ["task=masked_lm", "data=pydoc", "task.max_new_tokens=4"],
            ["task=masked_lm", "task.max_new_tokens=null"],
        ),
        (["task=causal_lm"], ["task=causal_lm", "data=dates", "text"]),
        (["data=pydoc"], ["task=seq2seq", "data=pydoc", "source"]),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(overrides: list[str], words: list[str]):
    with pytest.raises(UserError) as caught:
        check_training(composed(*overrides))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=llama_from_hf", "model.dropout=1"], ["model.dropout", "below 1"]),
        (["model=llama_from_hf", "model.attention=flash"], ["model.attention", "varlen"]),
        (["model=llama_from_hf", "model.pretrained=true"], ["tokenizer=pretrained"]),
        (["model=hf", "tokenizer=bpe", "model.pretrained=true"], ["tokenizer=pretrained"]),
        (["model=hf", "model.name_or_path=./nowhere"], ["no config.json in ./nowhere"]),
    ],
)
def test_models_from_elsewhere_are_checked_too(
    overrides: list[str], words: list[str], tmp_path: Path
):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    place = FROM_ELSEWHERE[overrides[0].removeprefix("model=")]
    common = [f"model.{place}={tmp_path}", "model.pretrained=false", "task=causal_lm", "data=pydoc"]
    with pytest.raises(UserError) as caught:
        check_training(composed(*common, *overrides))
    for word in words:
        assert word in str(caught.value)


ROOMS = sorted(file.parent.name for file in PACKAGE.glob("*/settings.py"))


def test_each_room_with_settings_of_its_own_is_known():
    assert {"data", "decoding", "hf", "model", "tokenizer", "tracking", "training"} <= {*ROOMS}


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "runtime"])
def test_a_check_has_the_name_of_a_part_that_conf_names(room: str):
    """With another name it would never be called."""
    targets = "".join(file.read_text("utf-8") for file in conf_dir().glob("*/*.yaml"))
    for name in import_module(f"everytoken.{room}.settings").CHECKS:
        assert re.search(rf"_target_: everytoken\.{room}\.{name}\b", targets)


def test_checks_of_values_import_nothing_heavy():
    code = f"""
import sys
from hydra import compose, initialize_config_dir
from everytoken.config.values import check_training
with initialize_config_dir({str(conf_dir())!r}, version_base="1.3"):
    check_training(compose("train", ["decoding=beam", "tokenizer=bpe"]))
print({{"torch", "lightning", "datasets", "transformers", "wandb"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["split=train", "run=x"], ["split", "val", "test"]),
        (["checkpoint=3", "run=x"], ["checkpoint", "best", "last"]),
        ([], ["run=DIR"]),
        (["run=x", "trainer.devices=-1"], ["trainer.devices", "-1"]),
        (["run=x", "trainer.devices=2"], ["trainer.devices=2", "trainer=ddp"]),
        (["run=x", "decoding=beam", "decoding.beams=0"], ["decoding.beams", "0"]),
        (["run=x", "precision=fp32", "precision.mode=64"], ["precision.mode", "32-true"]),
    ],
)
def test_evaluation_refuses_what_it_has_not(overrides: list[str], words: list[str]):
    with pytest.raises(UserError) as caught:
        check_evaluation(composed(*overrides, name="eval"))
    assert all(word in str(caught.value) for word in words)


@pytest.mark.bad_input
def test_generation_needs_a_run_and_room_for_an_answer():
    with pytest.raises(UserError, match="run=DIR"):
        check_generation(composed(name="generate"))
    with pytest.raises(UserError, match="max_new_tokens"):
        check_generation(composed("run=x", "max_new_tokens=0", name="generate"))
    with pytest.raises(UserError, match="batch_size"):
        check_generation(composed("run=x", f"batch_size={2**62}", name="generate"))
    beam = ("decoding=beam", "decoding.length_penalty=1e3")
    with pytest.raises(UserError, match=r"decoding\.length_penalty"):
        check_generation(composed("run=x", *beam, name="generate"))
    with pytest.raises(UserError, match=r"decoding\.top_k"):
        check_generation(composed("run=x", "decoding=sample", "decoding.top_k=0", name="generate"))
