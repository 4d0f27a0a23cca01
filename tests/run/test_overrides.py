"""The overrides of a run, composed again under those that continue it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from everytoken.config.composing import composed
from everytoken.config.keys import conf_dir
from everytoken.config.literal import leaves, literal, plain
from everytoken.errors import UserError
from everytoken.run.directory import Run
from everytoken.run.overrides import all_overrides
from everytoken.run.resume import changes
from support.continuing import command, continued_config, new_run


def differing(run: Run, *overrides: str) -> dict[str, Any]:
    """What overrides change in a run's config: keys and their new values."""
    cfg = continued_config(run, *overrides)
    return {key: OmegaConf.select(cfg, key) for key in changes(run, cfg)}


def forget_overrides(run: Run) -> Run:
    """As a run of an older version, which didn't record them."""
    identity = {k: v for k, v in run.identity.items() if k != "overrides"}
    run.identity_file.write_text(json.dumps(identity))
    return run


FUSED = "optimizer.fused"
STARTED = {
    "default": [],
    "causal": [
        "task=causal_lm",
        "data=pydoc",
        "optimizer=sgd",
        "seed=7",
        "+optimizer.maximize=true",
    ],
    "text": ["task=masked_lm", "data=text", "data.path='a/b c.txt'", "data.text='it\\'s'"],
    "callbacks": ["callbacks=ema", "callbacks.last_checkpoint.every_n_steps=3", "metrics=top5"],
    "removed": ["~optimizer.fused", "callbacks=none", "decoding=beam", "logger=none"],
    "experiment": ["experiment=chars", "data.path=x.txt", "trainer=ddp_cpu", "precision=bf16"],
    "part": ["+callbacks.mine={_target_: lightning.pytorch.callbacks.Timer, duration: 1}"],
}


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "older"])
@pytest.mark.parametrize("started", STARTED.values(), ids=list(STARTED))
def test_a_run_that_goes_on_unchanged_has_its_config(
    tmp_path: Path, started: list[str], recorded: bool
):
    run = new_run(tmp_path / "run", *started)
    if not recorded:
        forget_overrides(run)
    found = differing(run, "trust=lightning.pytorch.callbacks.Timer")
    # That an argument was taken away from a part can't be told from an argument that came later.
    assert found == ({} if recorded or "~optimizer.fused" not in started else {FUSED: True})


def test_overrides_are_laid_over_the_runs_own_config(tmp_path: Path):
    """Also over keys that only the run's own choices have."""
    run = new_run(tmp_path / "run", "task=causal_lm", "data=pydoc", "optimizer=sgd", "seed=7")
    window, *others = [
        "task.objective.window_tokens=64",
        "optimizer.momentum=0.5",
        "+optimizer.maximize=true",
    ]
    with pytest.raises(UserError, match=r"window_tokens=\d+, and can't go on with 64"):
        differing(run, window)
    assert differing(run, *others) == {"optimizer.momentum": 0.5, "optimizer.maximize": True}


def test_epochs_that_are_typed_end_a_run_and_not_a_default_number_of_steps(tmp_path: Path):
    """Also an experiment's; both count where both are typed."""

    def limits(*overrides: str) -> list[str]:
        return all_overrides(command(*overrides))[len(overrides) :]

    no_steps = ["trainer.max_steps=null"]
    assert limits("trainer.max_epochs=3", "experiment=chars") == no_steps
    assert limits("++trainer.max_epochs=1,2") == no_steps
    assert limits("trainer.max_epochs=3", "trainer.max_steps=7") == []
    assert limits("trainer.max_epochs=null") == limits("trainer=cpu") == []
    run = new_run(tmp_path / "run", "trainer.max_steps=7")
    assert differing(run, "trainer.max_epochs=3") == {
        "trainer.max_epochs": 3,
        "trainer.max_steps": None,
    }
    assert (
        differing(new_run(tmp_path / "new", *all_overrides(command("trainer.max_epochs=3")))) == {}
    )


def test_what_is_derived_follows(tmp_path: Path):
    """data.path also names the files of data.corpus."""
    run = new_run(tmp_path / "run", *STARTED["text"])
    assert differing(run, "data.path=other.txt") == {
        "data.path": "other.txt",
        "data.corpus.train": "other.txt",
    }


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
    assert "ema" not in continued_config(run, "callbacks=default").callbacks
    assert dict(continued_config(run, "logger=none").logger) == {}
    back = new_run(tmp_path / "ddp", "trainer=ddp_cpu", "trainer.max_steps=7")
    assert differing(back, "trainer=cpu") == {"trainer.devices": 1, "trainer.strategy": "auto"}


def test_a_group_of_an_older_run_can_be_chosen_again(tmp_path: Path):
    run = forget_overrides(new_run(tmp_path / "run", "trainer=ddp_cpu", "trainer.max_steps=7"))
    assert differing(run, "trainer=cpu") == {"trainer.devices": 1, "trainer.strategy": "auto"}
    ema = forget_overrides(new_run(tmp_path / "ema", "callbacks=ema"))
    assert "ema" not in continued_config(ema, "callbacks=default").callbacks


def test_what_a_default_says_today_does_not_replace_what_a_run_was_started_with(tmp_path: Path):
    run = new_run(tmp_path / "run", "optimizer=sgd")
    cfg = run.config
    cfg.optimizer.momentum = 0.7  # so it was in conf/ when the run was started
    del cfg.z_loss  # and this came later
    run.write_config(cfg)
    assert differing(run) == {"z_loss": 0.0}
    assert continued_config(run, "optimizer.lr=1").optimizer.momentum == 0.7


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("experiment=pydoc", "not experiment"),
        ("hydra.run.dir=x", "not hydra.run.dir"),
        ("seed=1,2", "several values"),
    ],
)
def test_overrides_that_no_run_goes_on_with_are_refused(
    tmp_path: Path, override: str, message: str
):
    with pytest.raises(UserError, match=message):
        continued_config(new_run(tmp_path / "run"), override)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "recorded",
    [
        "hydra.job.chdir=true",
        "seed=1,2",
        "hydra/launcher=basic",
        "+callbacks@hydra.callbacks=default",
    ],
)
def test_a_record_of_what_no_run_records_is_refused(tmp_path: Path, recorded: str):
    run = new_run(tmp_path / "run")
    run.identity_file.write_text(json.dumps(run.identity | {"overrides": [recorded]}))
    with pytest.raises(UserError, match="which no run does: take it out"):
        continued_config(run)


def test_what_a_record_computes_is_taken_from_the_config_instead(tmp_path: Path):
    run = new_run(tmp_path / "run", "name=mine")
    recorded = ["name=at-${now:%S}", "model._target_=${oc.decode:os.system}", "--config-dir=evil"]
    for line in recorded:
        run.identity_file.write_text(json.dumps(run.identity | {"overrides": [line]}))
        assert differing(run) == {}
        assert line not in all_overrides(command(f"resume={run.path}"))


@pytest.mark.bad_input
def test_a_folder_of_choices_that_is_needed_again_is_named(tmp_path: Path):
    (tmp_path / "mine" / "data").mkdir(parents=True)
    text = (conf_dir() / "data" / "dates.yaml").read_text()
    (tmp_path / "mine" / "data" / "own.yaml").write_text(text)
    folder = tmp_path / "mine"
    cfg = composed(folder, "train", ["data=own"])
    del cfg._content["hydra"]  # pyright: ignore
    started = {"overrides": ["data=own"], "config_dir": str(folder)}
    run = Run.create(tmp_path / "run", cfg, started)
    with pytest.raises(UserError, match=f"was started with --config-dir {folder}: add it"):
        continued_config(run)
    assert "data=own" in all_overrides(command(f"resume={run.path}", folder=folder))


def test_a_command_that_resumes_nothing_is_as_it_was_typed():
    for overrides in (["resume=auto"], ["resume=null"], ["seed=1"], ["resume=[", "="]):
        assert all_overrides(command(*overrides)) == overrides


TRICKY = st.text("ab'\\\"${}[],:= \n", max_size=8)
NUMBER = st.integers() | st.floats(allow_nan=False)
SIMPLE = st.none() | st.booleans() | NUMBER | st.text(max_size=8) | TRICKY


@given(st.recursive(SIMPLE, lambda v: st.lists(v, max_size=3), max_leaves=5))
def test_a_literal_is_read_back_as_the_value(value: Any):
    (override,) = OverridesParser.create().parse_overrides([f"key={literal(value)}"])
    assert override.value() == value


def test_leaves_are_what_a_config_holds():
    cfg: DictConfig = OmegaConf.create({"a": {"b": 1, "c": [1, {"d": 2}]}, "e": {}, "f": "${a.b}"})
    assert dict(leaves(plain(cfg))) == {"a.b": 1, "a.c": [1, {"d": 2}], "f": "${a.b}"}


COSINE, CONSTANT = "scheduler=warmup_cosine", "scheduler=constant"
TOP5 = "metrics.accuracy_top5"
WATCH = "callbacks.best_checkpoint.monitor=val/accuracy"


@pytest.mark.parametrize(
    ("started", "typed", "lost"),
    [
        (["callbacks=ema", "+callbacks.ema.warm_up=false"], ["callbacks=default"], "callbacks.ema"),
        (["callbacks=ema", "callbacks.ema.decay=0.9"], ["callbacks=default"], "callbacks.ema"),
        (["callbacks=ema", "~callbacks.ema.decay"], ["callbacks=default"], "callbacks.ema"),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.patience=2"],
            ["callbacks=ema"],
            "callbacks.early_stopping",
        ),
        (["scheduler._target_=a.b", "+scheduler.gamma=1"], [CONSTANT], "scheduler.gamma"),
        ([CONSTANT, "+scheduler.gamma=1"], [COSINE], "scheduler.gamma"),
        (["metrics=top5", f"+{TOP5}.x=1"], ["metrics=none"], TOP5),
        ([WATCH], ["callbacks=none"], "callbacks.report"),
    ],
)
def test_another_choice_of_a_group_leaves_nothing_of_the_one_before(
    tmp_path: Path, started: list[str], typed: list[str], lost: str
) -> None:
    run = new_run(tmp_path / "run", *started)
    assert lost in dict(leaves(plain(run.config))) or OmegaConf.select(run.config, lost) is not None
    cfg = continued_config(run, *typed)
    assert OmegaConf.select(cfg, lost) is None
    # Once more: what run.json records of both goes together too.
    overrides = [*started, *typed, "seed=1"]
    run.note_resumption([], overrides)
    run.write_config(cfg)
    assert differing(run, "trainer.max_steps=9") == {"trainer.max_steps": 9}


def test_another_choice_leaves_what_it_has_too_and_what_was_added(tmp_path: Path) -> None:
    mine = ["+callbacks.mine._target_=project.callback.WeightNorms"]
    kept = ["callbacks.last_checkpoint.every_n_steps=7", *mine]
    run = new_run(tmp_path / "run", "callbacks=ema", "+callbacks.ema.warm_up=false", *kept)
    callbacks = continued_config(run, "callbacks=default").callbacks
    assert callbacks.last_checkpoint.every_n_steps == 7
    assert callbacks.mine == {"_target_": "project.callback.WeightNorms"}
    assert "ema" not in callbacks
    assert continued_config(run, "callbacks=ema").callbacks.ema.warm_up is False


def test_code_in_the_place_of_another_is_not_given_the_arguments_of_that(tmp_path: Path):
    def added(*overrides: str) -> list[str]:
        return all_overrides(command(*overrides))[len(overrides) :]

    assert added("optimizer._target_=torch.optim.NAdam") == ["~optimizer.fused"]
    assert added("optimizer._target_=torch.optim.NAdam", "optimizer.fused=true") == []  # refused
    assert added("optimizer._target_=torch.optim.Adam") == []
    onecycle = "scheduler._target_=torch.optim.lr_scheduler.OneCycleLR"
    gone = ["~scheduler.warmup_fraction", "~scheduler.final_fraction"]
    assert added(onecycle, "+scheduler.max_lr=0.1") == gone
    assert added(onecycle, "scheduler=constant") == gone[:1]
    composed(conf_dir(), "train", all_overrides(command("model._target_=torch.nn.Identity")))
    alone = ("model._target_=torch.nn.Linear", "optimizer._target_=torch.optim.NAdam")
    composed(conf_dir(), "train", all_overrides(command(*alone)))
    assert added("module._target_=no.such.Thing", "+callbacks.a._target_=no.such.Thing") == []
    run = new_run(tmp_path / "run", *all_overrides(command(onecycle, "+scheduler.max_lr=0.1")))
    assert differing(run, "scheduler.max_lr=0.2") == {"scheduler.max_lr": 0.2}
