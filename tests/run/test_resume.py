"""Which run a command continues, and with what config."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from omegaconf import DictConfig

from everytoken.config.check import Command
from everytoken.config.secrets import resolved
from everytoken.errors import BrokenRunError, UserError
from everytoken.run.directory import Run
from everytoken.run.resume import (
    changes,
    claim,
    continued,
    left_as_it_was_if_refused,
    newest_unfinished,
    shapes_learning,
)
from support.continuing import continued_config, new_run
from support.helpers import composed


def begun_run(path: Path, *overrides: str) -> Run:
    """A run that has saved a checkpoint."""
    run = new_run(path, *overrides)
    run.checkpoint("last").parent.mkdir()
    run.checkpoint("last").touch()
    return run


def test_what_has_no_checkpoint_begins_again_or_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = new_run(tmp_path / "run")
    assert continued(run, continued_config(run))
    assert "begins again at step 0" in " ".join(capsys.readouterr().out.split())
    run.summary_file.write_text("{}")
    with pytest.raises(UserError, match="kept no checkpoint to go on from"):
        continued(run, continued_config(run, "trainer.max_steps=700"))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.width=64", "has model.width=128, and can't go on with 64"),
        ("tokenizer=byte", "tokenizer._target_"),
        ("optimizer=sgd", r"can't go on with torch\.optim\.SGD"),
    ],
)
def test_what_does_not_go_on_is_refused(tmp_path: Path, word: str, message: str):
    run = new_run(tmp_path / "run")
    before = run.config_file.read_text()
    with pytest.raises(UserError, match=message):
        changes(run, continued_config(run, word))
    assert run.config_file.read_text() == before


def test_keys_that_shape_learning_are_known():
    shaping = ("data.batch_size", "optimizer.lr", "seed", "trainer.gradient_clip_val", "z_loss")
    assert all(map(shapes_learning, shaping))
    free = ("trainer.max_steps", "data.num_workers", "data.microbatch_tokens", "logger._target_")
    assert not any(map(shapes_learning, free))


def test_what_goes_on_is_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = begun_run(tmp_path / "run")
    created = run.identity
    assert continued(run, continued_config(run))
    assert capsys.readouterr().out == ""
    assert continued(run, continued_config(run, "seed=2", "trainer.max_steps=700"))
    printed = " ".join(capsys.readouterr().out.split())  # lines are broken for the terminal
    assert printed == (
        "warning: seed 1 -> 2: from here on this is no longer the same run "
        "goes on with trainer.max_steps 600 -> 700"
    )
    assert (run.config.seed, run.config.trainer.max_steps) == (2, 700)
    assert run.identity["id"] == created["id"]
    assert [one["changed"] for one in run.resumptions] == [[], ["seed", "trainer.max_steps"]]


@pytest.mark.bad_input
@pytest.mark.parametrize("steps_are_made", [False, True])
@pytest.mark.parametrize(
    "error", [UserError("no"), BrokenRunError("no"), SystemExit(2), SystemExit(1), KeyError("x")]
)
def test_a_finished_run_stays_so_if_it_is_refused_before_a_step(
    tmp_path: Path, error: BaseException, steps_are_made: bool
):
    run = new_run(tmp_path / "run")
    files = (run.config_file, run.identity_file, run.summary_file)
    run.summary_file.write_text("{}")
    run.checkpoint("last").parent.mkdir()
    run.checkpoint("last").write_text("first")
    before = [file.read_text() for file in files]

    def go_on():
        with left_as_it_was_if_refused(run):
            assert continued(run, continued_config(run, "trainer.max_steps=700"))
            assert not run.summary_file.exists()
            if steps_are_made:
                run.checkpoint("last").unlink()
                run.checkpoint("last").write_text("second")
            raise error

    with pytest.raises(type(error)):
        go_on()
    refused = type(error) is UserError or (isinstance(error, SystemExit) and error.code == 2)
    assert run.summary_file.exists() == (refused and not steps_are_made)
    if refused and not steps_are_made:
        assert [file.read_text() for file in files] == before


def test_a_finished_run_goes_on_only_if_it_is_to_be_longer(tmp_path: Path):
    run = begun_run(tmp_path / "run")
    run.summary_file.write_text("{}")
    assert not continued(run, continued_config(run))
    assert not continued(run, continued_config(run, "trainer.max_steps=500", "seed=2"))
    assert not run.is_unfinished
    assert continued(run, continued_config(run, "trainer.max_steps=700"))
    assert run.is_unfinished


@pytest.mark.parametrize("key", ["patience=9", "+stopping_threshold=0.1", "+check_finite=false"])
def test_a_run_that_ended_early_goes_on_once_what_ended_it_is_changed(tmp_path: Path, key: str):
    run = begun_run(tmp_path / "run", "callbacks=early_stopping")
    run.summary_file.write_text("{}")
    run.note_early_end({"step": 2, "of": 6, "reason": "why"})
    assert not continued(run, continued_config(run, "callbacks.early_stopping.monitor=val/loss"))
    plus, name = ("+", key[1:]) if key[0] == "+" else ("", key)
    assert continued(run, continued_config(run, f"{plus}callbacks.early_stopping.{name}"))


def test_the_newest_unfinished_run_of_the_same_config_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)

    def wanted() -> DictConfig:
        return resolved(composed("resume=auto"))

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


def test_what_slurm_has_queued_again_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its command, which nobody types again, says nothing of `resume`."""
    run = begun_run(tmp_path / "run")
    monkeypatch.setattr("everytoken.run.resume.run_dir", lambda: run.path)
    monkeypatch.setattr("everytoken.run.resume.is_run_dir_given", lambda: True)
    monkeypatch.setattr("everytoken.run.resume.typed", lambda _: [])
    command = Command("train", Path(), [], frozenset(), asks=False, sweeps=False)
    with ExitStack() as held:
        with pytest.raises(UserError, match="holds a run already"):
            claim(composed(), command, held)
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        assert claim(composed(), command, held) == run.path
    monkeypatch.setattr("everytoken.run.resume.run_dir", lambda: tmp_path / "new")
    with ExitStack() as held:  # it was queued again before it had begun
        assert claim(composed(), command, held) == tmp_path / "new"
