"""The words of a command line, laid over the config of a run that goes on."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from omegaconf import OmegaConf

from everytoken.errors import UserError
from everytoken.run.directory import Run
from everytoken.run.overrides import with_words
from everytoken.run.resume import changes

pytestmark = pytest.mark.usefixtures("inside_hydra")


def new_run(path: Path, *words: str) -> Run:
    return Run.create(path, compose("train", list(words)))


def differing(run: Run, *words: str) -> dict[str, Any]:
    """What words change in a run's config: keys and their new values."""
    cfg = with_words(run, list(words))
    return {key: OmegaConf.select(cfg, key) for key in changes(run, cfg)}


def test_words_are_laid_over_the_runs_own_config(tmp_path: Path):
    """Also over keys that only the run's own choices have."""
    run = new_run(tmp_path / "run", "task=causal_lm", "data=pydoc", "optimizer=sgd", "seed=7")
    assert differing(run) == {}
    assert "resume" not in with_words(run, ["resume=run"])
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
    found = differing(run, "callbacks.early_stopping.patience=2", "callbacks=early_stopping")
    assert found["callbacks.early_stopping.patience"] == 2
    assert {key.split(".")[1] for key in found} == {"ema", "early_stopping"}
    assert "ema" not in with_words(run, ["callbacks=default"]).callbacks
    assert dict(with_words(run, ["logger=none"]).logger) == {"_target_": None}
    back = new_run(tmp_path / "ddp", "trainer=ddp_cpu", "trainer.max_steps=7")
    assert differing(back, "trainer=cpu") == {"trainer.devices": 1, "trainer.strategy": "auto"}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optimizer.lrr=1", r"unknown key optimizer\.lrr: did you mean optimizer\.lr\?"),
        ("~optimizer.lrr", r"unknown key optimizer\.lrr"),
        ("experiment=pydoc", "not experiment"),
        ("hydra.run.dir=x", "not hydra.run.dir"),
        ("seed=1,2", "several values"),
    ],
)
def test_words_that_can_not_be_laid_over_a_config_are_refused(
    tmp_path: Path, word: str, message: str
):
    with pytest.raises(UserError, match=message):
        with_words(new_run(tmp_path / "run"), [word])


@pytest.mark.bad_input
def test_an_old_config_tells_which_keys_to_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/a place")
    run = new_run(tmp_path / "run")
    cfg = run.config
    del cfg.z_loss, cfg.data.padding_side, cfg.trainer.max_epochs
    del cfg.callbacks.last_checkpoint.every_n_steps, cfg.data.cache_dir
    run.write_config(cfg)
    words = ["z_loss=0.0", "data.padding_side=right", "data.cache_dir=/a place/everytoken"]
    words += ["trainer.max_epochs=null", "callbacks.last_checkpoint.every_n_steps=100"]
    told = f"older version .* add to the command {shlex.join(words)}"
    with pytest.raises(UserError, match=told):
        with_words(run, [])
    assert with_words(run, words).z_loss == 0.0  # and adding them is what helps
