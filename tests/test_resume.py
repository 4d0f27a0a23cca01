"""Which run a command continues, and with what config."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from everytoken import hf_config
from everytoken.config import conf_dir
from everytoken.errors import UserError
from everytoken.resume import (
    changes,
    continued,
    directory_of,
    newest_unfinished,
    shapes_learning,
    with_words,
)
from everytoken.runs import Run

assert hf_config  # its resolver is needed by the config


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


def new_run(path: Path, *words: str) -> Run:
    return Run.create(path, compose("train", list(words)))


def differing(run: Run, *words: str) -> dict[str, Any]:
    """What words change in a run's config: keys and their new values."""
    cfg = with_words(run, list(words))
    return {key: OmegaConf.select(cfg, key) for key in changes(run, cfg)}


def test_a_directory_is_resumed_by_name_or_looked_for():
    assert directory_of(["resume=runs/2026-11-25/10-00-00-a,b", "seed=1"]) is None  # a sweep
    assert directory_of(["seed=1", "resume=runs/2026-11-25/10-00-00-a"]) == Path(
        "runs/2026-11-25/10-00-00-a"
    )
    for words in (["resume=auto"], ["resume=null"], ["seed=1"], ["resume=[", "="]):
        assert directory_of(words) is None


def test_words_are_laid_over_the_runs_own_config(tmp_path: Path):
    """Also over keys that only the run's own choices have."""
    run = new_run(tmp_path / "run", "task=causal_lm", "data=pydoc", "optimizer=sgd", "seed=7")
    assert differing(run) == {}
    words = [
        "task.objective.window_tokens=64",
        "optimizer.momentum=0.5",
        "+optimizer.maximize=true",
    ]
    with pytest.raises(UserError, match=r"window_tokens=\d+, and can't go on with 64"):
        differing(run, *words)
    assert differing(run, *words[1:]) == {"optimizer.momentum": 0.5, "optimizer.maximize": True}


def test_a_group_changes_what_its_choices_differ_in_and_nothing_else(tmp_path: Path):
    run = new_run(
        tmp_path / "run",
        *("trainer.max_steps=7", "callbacks=ema", "callbacks.last_checkpoint.every_n_steps=3"),
        "logger=wandb",
    )
    assert differing(run, "trainer=ddp_cpu") == {
        "trainer.accelerator": "cpu",
        "trainer.devices": 2,
        "trainer.strategy": "ddp",
    }
    found = differing(run, "callbacks=early_stopping", "callbacks.early_stopping.patience=2")
    assert {key.split(".")[1] for key in found} == {"ema", "early_stopping"}
    assert "ema" not in with_words(run, ["callbacks=default"]).callbacks
    assert dict(with_words(run, ["logger=none"]).logger) == {"_target_": None}
    back = new_run(tmp_path / "ddp", "trainer=ddp_cpu", "trainer.max_steps=7")
    assert differing(back, "trainer=cpu") == {"trainer.devices": 1, "trainer.strategy": "auto"}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.width=64", "has model.width=128, and can't go on with 64"),
        ("tokenizer=byte", "tokenizer._target_"),
        ("optimizer=sgd", r"can't go on with torch\.optim\.SGD"),
        ("optimizer.lrr=1", r"unknown key optimizer\.lrr: did you mean optimizer\.lr\?"),
        ("~optimizer.lrr", r"unknown key optimizer\.lrr"),
        ("experiment=pydoc", "not experiment"),
        ("hydra.run.dir=x", "not hydra.run.dir"),
        ("seed=1,2", "several values"),
    ],
)
def test_what_does_not_go_on_is_refused(tmp_path: Path, word: str, message: str):
    run = new_run(tmp_path / "run")
    before = run.config_file.read_text()
    with pytest.raises(UserError, match=message):
        differing(run, word)
    assert run.config_file.read_text() == before


def test_keys_that_shape_learning_are_known():
    shaping = ("data.batch_size", "optimizer.lr", "seed", "trainer.gradient_clip_val", "z_loss")
    assert all(map(shapes_learning, shaping))
    free = ("trainer.max_steps", "data.num_workers", "data.microbatch_tokens", "logger._target_")
    assert not any(map(shapes_learning, free))


@pytest.mark.bad_input
def test_an_old_config_tells_which_keys_to_add(tmp_path: Path):
    run = new_run(tmp_path / "run")
    cfg = run.config
    del cfg.z_loss, cfg.data.padding_side, cfg.trainer.max_epochs
    del cfg.callbacks.last_checkpoint.every_n_steps
    run.write_config(cfg)
    lost = ("z_loss=0.0", "data.padding_side=right", "trainer.max_epochs=null")
    words = [*lost, "callbacks.last_checkpoint.every_n_steps=100"]
    with pytest.raises(UserError, match=f"older version .* add to the command {' '.join(words)}"):
        with_words(run, [])
    assert with_words(run, words).z_loss == 0.0  # and adding them is what helps


def test_what_goes_on_is_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = new_run(tmp_path / "run")
    created = run.identity
    assert continued(run, with_words(run, []))
    assert capsys.readouterr().out == ""
    assert continued(run, with_words(run, ["seed=2", "trainer.max_steps=700"]))
    told = " ".join(capsys.readouterr().out.split())  # lines are broken for the terminal
    assert told == (
        "warning: seed 1 -> 2: from here on this is no longer the same run "
        "goes on with trainer.max_steps 600 -> 700"
    )
    assert (run.config.seed, run.config.trainer.max_steps) == (2, 700)
    assert run.identity["id"] == created["id"]
    assert [one["changed"] for one in run.resumptions] == [[], ["seed", "trainer.max_steps"]]


def test_a_finished_run_goes_on_only_if_it_is_to_be_longer(tmp_path: Path):
    run = new_run(tmp_path / "run")
    run.summary_file.write_text("{}")
    assert not continued(run, with_words(run, []))
    assert not continued(run, with_words(run, ["trainer.max_steps=500", "seed=2"]))
    assert not run.is_unfinished
    assert continued(run, with_words(run, ["trainer.max_steps=700"]))
    assert run.is_unfinished


def test_the_newest_unfinished_run_of_the_same_config_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)

    def wanted() -> DictConfig:
        return compose("train", ["resume=auto"])

    assert newest_unfinished(wanted()) is None
    runs = [new_run(tmp_path / "runs" / "day" / str(n)) for n in range(3)]
    for hour, run in enumerate(runs):
        identity = run.identity | {"created": f"2026-01-01T0{hour}:00:00+00:00"}
        run.identity_file.write_text(json.dumps(identity))
    new_run(tmp_path / "runs" / "day" / "other", "seed=2")
    assert newest_unfinished(wanted()) == runs[2]
    runs[2].summary_file.write_text("{}")
    assert newest_unfinished(wanted()) == runs[1]
    with runs[1].locked():
        assert newest_unfinished(wanted()) == runs[0]
