"""Mistakes on the command line: one line that says what to do, exit code 2, nothing left behind."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from everytoken.run.directory import Run
from support.helpers import assert_refused, run, run_here

TINY = [
    "logger=none",
    "data.corpus.train_examples=64",
    "data.corpus.val_examples=8",
    "data.corpus.test_examples=8",
]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("train trainer.max_step=5", ["trainer.max_step", "did you mean trainer.max_steps?"]),
        ("train decoding.beams=3", ["decoding.beams", "it comes with decoding=beam"]),
        (
            "train task=causal_lm data=text data.path=x data.val_path=y data.val_fraction=0.2",
            ["data.val_fraction=0.2 would change nothing", "data.val_path=y says which"],
        ),
        (
            "train data=hub data.name=x data.test_fraction=0.2",
            ["data.test_fraction=0.2 would change nothing", "or set data.test_split=null"],
        ),
        (
            "train task=masked_lm data=pydoc decoding=beam",
            ["task=masked_lm generates nothing", "leave it out"],
        ),
        ("eval run=x decoding.top_k=3", ["decoding.top_k", "it comes with decoding=sample"]),
        ("train +trainer.max_step=5", ["trainer.max_step", "did you mean trainer.max_steps?"]),
        ("train ++model.dropuot=0", ["model.dropuot", "did you mean model.dropout?"]),
        ("train modl=small", ["modl", "did you mean model?"]),
        ("train model=smal", ["'smal'", "base,", "hf,", "llama_from_hf,", "small,", "tiny"]),
        ("train name=../../elsewhere", ["name=", "run directory"]),
        ("train name=a/b", ["name=", "run directory"]),
        ("train data=null", ["null", "leave it out"]),
        ("train optimizer.lr=${foo}", ["foo"]),
        ("train +xyzzy=1", ["xyzzy", "--cfg job"]),
        ("train callbacks.mine.at.0=2", ["callbacks.mine.at={0:VALUE} keeps the others"]),
        ("train +loss._target_=torch.nn.CrossEntropyLoss", ["unknown key loss", "module=project"]),
        ("train +schedular._target_=torch.nn.Linear", ["schedular", "did you mean scheduler?"]),
        ("train +trainer.profiler._target_=torch.nn.Linear", ["unknown key trainer.profiler"]),
        ("train +data.corpora._target_=torch.nn.Linear", ["data.corpora", "data.corpus?"]),
        ("train +callbacks.x._target_=torhc.nn.Linear", ["callbacks.x", "torhc"]),
        ("train +callbacks.x._target_=lightning.pytorch.callbacks.Tmier", ["callbacks.x", "Tmier"]),
        ("train optimizer._target_=torhc.optim.Adam +optimizer.amsgrad=true", ["torhc"]),
        ("train --multirun debug=fast seed=1,2 modle=x", ["modle"]),
        ("train debug=fast --multirun seed=1,2 modle=x", ["modle"]),
        ("train seed", ["seed", "key=value"]),
        ("train trainer.max_steps=[1", ["trainer.max_steps=[1", "key=value"]),
        ("train data.batch_tokens=100", ["data.batch_tokens", "data.batch_size"]),
        ("train model.width=130", ["model.width=130", "model.heads=4"]),
        ("train task=masked_lm", ["task=masked_lm", "data=dates"]),
        ("train hydra.run.dir=/proc/nothing/here", ["/proc/nothing", "hydra.run.dir=PATH"]),
        ("train log_level=null", ["log_level", "info, warning, debug", "None"]),
        ("audit modl=small", ["modl", "did you mean model?"]),
        ("audit .", ["audit --config-dir . --config-name config"]),
        ("audit resume=.", ["audit --config-dir . --config-name config"]),
        ("audit resume=auto", ["resume=auto is for", "train"]),
        ("train ~callbacks", ["callbacks=CHOICE", "default, early_stopping, ema, none"]),
        ("train seed=1,2", ["seed=1,2 has several values", "--multirun"]),
        ("train callbacks.monitor=x", ["did you mean callbacks.best_checkpoint.monitor?"]),
        (
            "train callbacks=early_stopping callbacks.monitor=x",
            ["did you mean callbacks.early_stopping.monitor?"],
        ),
        (
            "train callbacks.patience=3",
            ["callbacks=early_stopping, as callbacks.early_stopping.patience"],
        ),
        ("eval run=. ~trainer", ["trainer is missing"]),
        ("audit model.width=130", ["model.width=130", "model.heads=4"]),
        ("eval", ["run=DIR"]),
        ("eval run=nowhere", ["nowhere", "run=DIR"]),
        ("eval /tmp", ["no run directory", "config.yaml"]),
        ("eval run=. split=train", ["split", "val, test"]),
        ("eval run=. log_level=loud", ["log_level", "info, warning, debug", "'loud'"]),
        ("eval run=.", ["no run directory", "config.yaml"]),
        ("generate", ["run=DIR"]),
        ("generate run=nowhere", ["nowhere", "run=DIR"]),
        ("generate rum=x", ["rum", "did you mean run?"]),
    ],
)
def test_mistakes_in_a_command(tmp_path: Path, words: str, answer: list[str]):
    assert_refused(run(tmp_path, *words.split()), *answer)
    assert not any(tmp_path.iterdir())


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("data.microbatch_tokens=9", ["data.microbatch_tokens=9", "longest", "raise it to"]),
        ("data.corpus.val_examples=0", ["val split is empty", "data.corpus"]),
        ("data.corpus.first_year=12", ["data.corpus", "first_year", "12"]),
        ("data.corpus._target_=nothing.Here", ["data.corpus", "nothing"]),
        ("optimizer._target_=torch.optim.Nothing", ["optimizer", "Nothing"]),
        ("optimizer.betas=[0.9,2]", ["optimizer", "beta", "2"]),
        ("trainer.num_nodes=2 trainer=ddp_cpu", ["trainer.num_nodes", "torchrun"]),
    ],
)
def test_mistakes_that_show_when_the_data_is_read(tmp_path: Path, words: str, answer: list[str]):
    assert_refused(run_here(tmp_path, "train", *TINY, *words.split()), *answer)
    assert not any(tmp_path.iterdir())


@pytest.mark.bad_input
@pytest.mark.parametrize("words", ["trainer=gpu", "trainer=ddp", "trainer=fsdp", "precision=fp16"])
def test_what_needs_a_gpu_says_what_to_use_without_one(tmp_path: Path, words: str):
    if torch.cuda.is_available():
        assert run_here(tmp_path, "train", *TINY, words, "debug=fast").returncode == 0
    else:
        assert_refused(run_here(tmp_path, "train", *TINY, words), "GPU", "use")
        assert not any(tmp_path.iterdir())


@pytest.mark.bad_input
def test_a_directory_that_holds_a_run_is_not_written_over(tmp_path: Path):
    path = tmp_path / "mine"
    path.mkdir()
    kept = Run(path)
    kept.config_file.write_text("seed: 7\n")
    kept.identity_file.write_text("{}\n")
    assert_refused(run(tmp_path, "train", f"hydra.run.dir={path}"), str(path), "hydra.run.dir=PATH")
    assert kept.config_file.read_text() == "seed: 7\n"
    assert kept.identity_file.read_text() == "{}\n"


@pytest.mark.bad_input
@pytest.mark.skipif(
    find_spec("submitit") is not None, reason="with the package it would submit a real job"
)
def test_the_slurm_launcher_says_what_to_install(tmp_path: Path):
    assert_refused(run(tmp_path, "train", "launcher=slurm"), "pip install", "[slurm]")


@pytest.mark.bad_input
def test_files_of_the_user_are_not_touched(tmp_path: Path):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "config.yaml").write_text("mine: 1\n")
    assert_refused(run(tmp_path, "train", "hydra.run.dir=."), "not empty", "hydra.run.dir=PATH")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "wandb"]
    assert (tmp_path / "config.yaml").read_text() == "mine: 1\n"


def test_help_lists_groups_and_settings(tmp_path: Path):
    shown = run(tmp_path, "train", "--help")
    assert shown.returncode == 0
    for word in ("seq2seq, causal_lm, masked_lm", "data.batch_size=64", "--multirun"):
        assert word in shown.stdout
