"""Every choice under conf/ composes, and every default stands in one place."""

from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from everytoken.config import check_keys, conf_dir, did_you_mean, key_paths
from everytoken.errors import UserError
from everytoken.settings import check_evaluation, check_generation, check_training

TASKS = [("seq2seq", "dates"), ("causal_lm", "pydoc"), ("masked_lm", "pydoc")]
MODELS = ["tiny", "small", "base", "large"]
FROM_ELSEWHERE = {"hf": "name_or_path", "llama_from_hf": "path"}
TRAINERS = ["auto", "cpu", "gpu", "ddp", "ddp_cpu", "fsdp"]
PRECISIONS = ["fp32", "bf16", "fp16"]
NEEDED = {
    "data=pairs": ["data.source=a.en", "data.target=a.de"],
    "data=text": ["data.path=a.txt"],
    "data=hub": ["data.name=a/b"],
    "data=multi30k": ["data.path=folder"],
    "experiment=multi30k": ["data.path=folder"],
    "experiment=chars": ["data.path=a.txt"],
    "experiment=chars_gpu": ["data.path=a.txt"],
    "tokenizer=pretrained": ["tokenizer.path=folder"],
}
"""What has no default, by choice."""


@pytest.fixture(scope="module", autouse=True)
def hydra_finds_conf():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


def choices(group: str) -> list[str]:
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))


def composed(*overrides: str, name: str = "train") -> DictConfig:
    return compose(name, list(overrides))


def test_the_groups_below_are_all_there_are():
    assert choices("task") == sorted(task for task, _ in TASKS)
    assert choices("model") == sorted([*MODELS, *FROM_ELSEWHERE])
    assert choices("trainer") == sorted(TRAINERS)
    assert choices("precision") == sorted(PRECISIONS)


@pytest.mark.parametrize(("task", "data"), TASKS)
def test_every_task_model_trainer_and_precision_compose_and_pass_the_checks(task: str, data: str):
    for model, trainer, precision in product(MODELS, TRAINERS, PRECISIONS):
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
    if choice.startswith("task=") and choice != "task=seq2seq":
        overrides.append("data=pydoc")
    if place := FROM_ELSEWHERE.get(choice.removeprefix("model=")):
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
        overrides += [f"model.{place}={tmp_path}", "model.pretrained=false"]
    if choice in ("data=pydoc", "data=text"):
        overrides.append("task=causal_lm")
    overrides += NEEDED.get(choice, [])
    check_training(composed(*overrides))


@pytest.mark.parametrize(("choice", "needed"), NEEDED.items())
def test_a_setting_without_a_default_is_asked_for(choice: str, needed: list[str]):
    for left_out in needed:
        others = [word for word in needed if word != left_out]
        with pytest.raises(UserError) as error:
            check_training(composed(choice, *others))
        key = left_out.split("=")[0]
        assert f"needs {key}: give {key}=VALUE" in str(error.value)


def test_every_setting_says_what_it_is():
    for file in conf_dir().rglob("*.yaml"):
        lines = file.read_text(encoding="utf-8").splitlines()
        first = next(line for line in lines if not line.startswith("# @package"))
        described = first.startswith("#") or file.parent.name in ("task", "optimizer", "scheduler")
        assert described, f"{file} doesn't say what it chooses"


def test_a_default_is_set_in_one_place():
    """Classes that YAML configures have no defaults of their own for what YAML sets."""
    import inspect

    from hydra.utils import get_object

    found = 0
    for file in conf_dir().rglob("*.yaml"):
        cfg = OmegaConf.load(file)
        assert isinstance(cfg, DictConfig)
        for node in [cfg, *(cfg.get(key) for key in ("corpus", "objective"))]:
            target = node.get("_target_") if isinstance(node, DictConfig) else None
            if target is not None and target.startswith("everytoken."):
                for parameter in inspect.signature(get_object(target)).parameters.values():
                    if parameter.name in node:
                        assert parameter.default is parameter.empty, f"{target}: {parameter.name}"
                        found += 1
    assert found > 15


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.batch_tokens=100"], ["data.batch_tokens", "data.batch_size", "both"]),
        (["data.batch_size=null"], ["data.batch_tokens", "data.batch_size", "neither"]),
        (["data.batch_size=0"], ["data.batch_size", "at least 1", "0"]),
        (["tokenizer=bpe", "tokenizer.vocabulary_size=260"], ["vocabulary_size", "261", "260"]),
        (["data.batch_size=1.5"], ["data.batch_size", "whole number", "1.5"]),
        (["data.microbatch_tokens=null"], ["data.microbatch_tokens", "None"]),
        (["trainer.max_steps=abc"], ["trainer.max_steps", "abc"]),
        (["trainer.max_steps=true"], ["trainer.max_steps", "True"]),
        (["trainer.max_steps=null"], ["trainer.max_steps", "trainer.max_epochs"]),
        (["trainer.devices=2"], ["trainer.devices=2", "trainer=ddp"]),
        (["trainer.devices=0"], ["trainer.devices", "0"]),
        (["trainer.strategy=dp"], ["trainer.strategy", "ddp", "fsdp"]),
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
        (["compile=maybe"], ["compile", "maybe"]),
        (["precision=fp16", "optimizer.fused=true"], ["optimizer.fused=true", "precision=fp16"]),
        (["logger.mode=onlin"], ["logger.mode", "online"]),
        (["name=null"], ["name", "None"]),
        (["task.shape=decoder"], ["task.shape=decoder", "task.shape=encoder_decoder"]),
        (
            ["task=causal_lm", "data=pydoc", "task.shape=encoder"],
            ["task.shape=encoder", "task.shape=decoder"],
        ),
        (["~logger"], ["logger"]),
        (["callbacks=ema", "trainer=fsdp"], ["sharded", "trainer=ddp"]),
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
        (["precision.mode=64-true"], ["precision.mode", "bf16-mixed"]),
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


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["split=train", "run=x"], ["split", "val", "test"]),
        (["checkpoint=first", "run=x"], ["checkpoint", "best", "last"]),
        ([], ["run=DIR"]),
        (["run=x", "trainer.devices=-1"], ["trainer.devices", "-1"]),
        (["run=x", "trainer.devices=2"], ["trainer.devices=2", "trainer=ddp"]),
    ],
)
def test_evaluation_refuses_what_it_has_not(overrides: list[str], words: list[str]):
    with pytest.raises(UserError) as caught:
        check_evaluation(composed(*overrides, name="eval"))
    assert all(word in str(caught.value) for word in words)


def test_generation_needs_a_run_and_room_for_an_answer():
    with pytest.raises(UserError, match="run=DIR"):
        check_generation(composed(name="generate"))
    with pytest.raises(UserError, match="max_new_tokens"):
        check_generation(composed("run=x", "max_new_tokens=0", name="generate"))


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("trainer.max_step", "trainer.max_steps"),
        ("dropout", "model.dropout"),
        ("modle", "model"),
        ("model.dropuot", "model.dropout"),
        ("max_steps", "trainer.max_steps"),
        ("data.microbatch_token", "data.microbatch_tokens"),
    ],
)
def test_a_misspelt_key_is_answered_with_the_nearest_real_one(key: str, nearest: str):
    known = list(key_paths(composed()))
    assert did_you_mean(key, known) == f": did you mean {nearest}?"


def test_a_key_like_no_other_is_answered_with_where_to_look():
    assert did_you_mean("xyzzy", key_paths(composed())) == ": see --cfg job for all keys"


def test_added_keys_are_refused_unless_some_yaml_has_them():
    def check(*overrides: str) -> None:
        cfg = compose("train", list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with_task_only = cfg.copy()
        OmegaConf.set_struct(with_task_only, False)
        del with_task_only["hydra"]
        check_keys(with_task_only)

    check("++trainer.max_steps=7")
    check("trainer.max_steps=7")
    check("+optimizer.amsgrad=true")
    check("+callbacks.best_checkpoint.save_top_k=2")
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


def test_conf_is_found_beside_the_package_or_inside_it():
    assert (conf_dir() / "train.yaml").is_file()
    assert isinstance(conf_dir(), Path)
