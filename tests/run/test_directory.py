"""A run's directory and identity are written once, at the start."""

import errno
import fcntl
import json
import math
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from everytoken.errors import UserError
from everytoken.run.directory import PARTS, Run, remove_empty
from everytoken.runtime.files import write_json

CONFIG = OmegaConf.create({"name": "mine", "seed": 3, "twice": "${seed}${seed}"})


def test_a_run_is_opened_as_it_was_created(tmp_path: Path):
    created = Run.create(tmp_path / "a" / "b", CONFIG)
    opened = Run.open(tmp_path / "a" / "b")
    assert opened == created
    assert opened.config == {"name": "mine", "seed": 3, "twice": "33"}
    assert opened.identity == created.identity
    assert opened.identity["name"] == "mine"
    assert opened.identity["versions"]["torch"]
    assert len(opened.identity["id"]) == 8


def test_every_run_has_an_id_of_its_own(tmp_path: Path):
    ids = {Run.create(tmp_path / str(i), CONFIG).identity["id"] for i in range(20)}
    assert len(ids) == 20


@pytest.mark.bad_input
def test_a_directory_with_a_run_is_refused_and_left_as_it_is(tmp_path: Path):
    first = Run.create(tmp_path, CONFIG)
    before = first.identity_file.read_text()
    with pytest.raises(UserError, match=r"holds a run already.*hydra\.run\.dir"):
        Run.create(tmp_path, CONFIG)
    assert first.identity_file.read_text() == before


def test_runs_that_start_in_the_same_second_get_directories_of_their_own(tmp_path: Path):
    paths = [Run.create(tmp_path / "noon", CONFIG, numbered=True).path for _ in range(3)]
    assert [path.name for path in paths] == ["noon", "noon-2", "noon-3"]
    assert len({Run(path).identity["id"] for path in paths}) == 3


@pytest.mark.bad_input
def test_a_directory_with_other_files_is_refused_and_left_as_it_is(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("mine: 1")
    with pytest.raises(UserError, match=r"is not empty.*hydra\.run\.dir"):
        Run.create(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_text() == "mine: 1"


def test_what_comes_from_the_environment_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MY_TOKEN", "hush-hush")
    cfg = OmegaConf.create({"name": "mine", "data": {"tokens": ["${oc.env:MY_TOKEN}", 1]}})
    run = Run.create(tmp_path, cfg)
    assert "hush" not in run.config_file.read_text()
    assert run.config.data.tokens[0] == "hush-hush"  # but it works


@pytest.mark.bad_input
def test_what_is_no_run_is_not_opened(tmp_path: Path):
    with pytest.raises(UserError, match="no run directory"):
        Run.open(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"has no config\.yaml"):
        Run.open(tmp_path)


@pytest.mark.bad_input
def test_a_run_that_was_killed_as_it_began_says_how_it_starts_again(tmp_path: Path):
    run = Run.create(tmp_path / "run", CONFIG)
    run.config_file.unlink()
    with pytest.raises(UserError, match=r"nothing is lost; .* resume=auto hydra\.run\.dir="):
        Run.find(run.path)


@pytest.mark.bad_input
def test_a_run_whose_config_lost_a_part_builds_nothing(tmp_path: Path):
    parts = {part: {"some": 1} for part in PARTS}
    Run.create(tmp_path / "whole", OmegaConf.create({"name": "mine", **parts}))
    assert Run.open_whole(tmp_path / "whole").path == tmp_path / "whole"
    del parts["task"]
    Run.create(tmp_path / "lost", OmegaConf.create({"name": "mine", **parts}))
    Run.create(tmp_path / "odd", OmegaConf.create({"name": "mine", **parts, "task": 3}))
    for name in ("lost", "odd"):
        Run.open(tmp_path / name)
        with pytest.raises(UserError, match=r"config\.yaml lacks task: give another run=DIR"):
            Run.open_whole(tmp_path / name)


@pytest.mark.bad_input
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can't write the run directory.*file"):
        Run.create(tmp_path / "file" / "run", CONFIG)


def test_one_process_at_a_time_holds_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("everytoken.run.lock.SECONDS", 0.1)
    run = Run.create(tmp_path / "run", CONFIG)
    assert not run.is_locked
    with run.locked():
        assert run.is_locked
        with (
            pytest.raises(UserError, match="another process is training in"),
            Run(run.path).locked(),
        ):
            pass
        assert run.is_locked
    assert not run.is_locked


def test_without_locks_a_run_trains_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def flock(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "this file system has no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    run = Run.create(tmp_path / "run", CONFIG)
    with run.locked():
        assert not run.is_locked


def test_a_run_is_held_as_long_as_one_of_its_processes_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whatever has become of the one that took the lock."""
    monkeypatch.setattr("everytoken.run.lock.SECONDS", 0.1)
    run = Run.create(tmp_path / "run", CONFIG)
    with run.locked():
        rank = subprocess.Popen(["sleep", "60"], close_fds=False)
        other = subprocess.Popen(["sleep", "60"])
    assert run.is_locked
    with pytest.raises(UserError, match="another process is training in"), run.locked():
        pass
    rank.kill()
    rank.wait()
    assert not run.is_locked
    other.kill()
    other.wait()


@pytest.mark.bad_input
def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path):
    run = Run.create(tmp_path / "run", CONFIG)
    run.lock_file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"can't lock .*: it is a link, remove it"), run.locked():
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_summary_holds_numbers_only(tmp_path: Path):
    """NaN is no JSON."""
    run = Run.create(tmp_path / "run", CONFIG)
    assert run.summary is None
    write_json(run.summary_file, {"val/loss": float("nan"), "steps": 3})
    assert json.loads(run.summary_file.read_text()) == {"val/loss": None, "steps": 3}
    summary = run.summary
    assert summary is not None
    assert math.isnan(summary["val/loss"])
    assert summary["steps"] == 3
    run.summary_file.write_text("{")
    with pytest.raises(UserError, match=r"can't read .*summary\.json"):
        print(run.summary)


def test_run_json_tells_when_and_where_a_run_went_on(tmp_path: Path):
    run = Run.create(tmp_path / "run", CONFIG)
    before = run.identity
    run.note_step(3)  # a run that wasn't resumed
    assert run.identity == before
    run.note_resumption(["seed"])
    run.note_step(3)
    run.note_resumption([])
    found = [(one["step"], one["changed"]) for one in run.resumptions]
    assert found == [(3, ["seed"]), (0, [])]
    assert {k: v for k, v in run.identity.items() if k != "resumed"} == before


def test_how_a_run_is_started_is_no_part_of_its_config(tmp_path: Path):
    cfg = OmegaConf.create({"name": "mine", "resume": "auto"})
    OmegaConf.set_struct(cfg, True)  # as Hydra does
    assert Run.create(tmp_path / "run", cfg).config == {"name": "mine"}


def test_only_a_run_that_never_trained_is_discarded(tmp_path: Path):
    untrained = Run.create(tmp_path / "untrained", CONFIG)
    untrained.discard_unless_trained()
    assert not untrained.path.exists()
    trained = Run.create(tmp_path / "trained", CONFIG)
    (trained.path / "metrics.csv").write_text("step\n1\n")
    trained.discard_unless_trained()
    assert trained.config_file.exists()
    resumed = Run.create(tmp_path / "resumed", CONFIG)
    resumed.note_resumption([])
    resumed.discard_unless_trained()
    assert resumed.config_file.exists()
    other = Run.create(tmp_path / "other", CONFIG)
    (other.path / "notes.txt").write_text("the user's own")
    other.discard_unless_trained()
    assert [p.name for p in other.path.iterdir()] == ["notes.txt"]


def test_empty_directories_are_removed_inside_runs_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "day" / "time").mkdir(parents=True)
    (tmp_path / "else" / "where").mkdir(parents=True)
    remove_empty(tmp_path / "runs" / "day" / "time")
    remove_empty(tmp_path / "else" / "where")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["else"]


def test_files_of_a_run_are_plain(tmp_path: Path):
    run = Run.create(tmp_path / "a run", CONFIG)
    assert isinstance(json.loads(run.identity_file.read_text()), dict)
    text = run.config_file.read_text()
    assert f"--config-dir '{tmp_path}/a run' " in text
    assert "!!python" not in text
