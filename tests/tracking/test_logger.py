"""Weights & Biases: online or offline, whatever its server does, and without secrets."""

import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import wandb
import yaml
from lightning.pytorch.loggers import CSVLogger
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from everytoken.callbacks.last_checkpoint import LastCheckpoint
from everytoken.errors import UserError
from everytoken.run.directory import Run
from everytoken.run.metrics_file import MetricsFile
from everytoken.run.metrics_reader import read_metrics
from everytoken.tracking import logger as tracking
from everytoken.tracking.logger import build_logger, tensorboard_logger, upload
from everytoken.tracking.settings import CHECKS
from support.fitting import fit
from support.tracked import SETTINGS, assert_each_once, end, logs, recorded, tracker_of, train
from support.wandb_server import serving

KEY = "0123456789" * 4


@pytest.fixture
def run_of_test(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", OmegaConf.create({"name": "mine"}))


def test_tensorboard_writes_inside_the_run_directory(run_of_test: Run):
    logger = tensorboard_logger(run_of_test)
    logger.log_metrics({"train/loss": 1.0}, step=1)
    logger.finalize("success")
    assert list((run_of_test.path / "tensorboard").glob("events*"))


def test_tensorboard_has_the_numbers_of_metrics_csv_at_the_same_steps(run_of_test: Run):
    loggers = [MetricsFile(run_of_test), tensorboard_logger(run_of_test)]
    fit(run_of_test.path, validate_every=2, logger=loggers)
    events = EventAccumulator(str(run_of_test.path / "tensorboard")).Reload()
    shown = {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    written: dict[str, list[tuple[float, Any]]] = {}
    for row in read_metrics(run_of_test):
        for name in row.keys() - {"step"}:
            written.setdefault(name, []).append((row["step"], pytest.approx(row[name], rel=1e-6)))
    assert {"train/loss", "val/loss"} <= written.keys()
    assert [step for step, _ in shown["val/loss"]] == [2, 4]
    assert shown == written


def test_tensorboard_has_each_step_once_after_a_kill(run_of_test: Run):
    def train(stop: int, *, resume: bool) -> None:
        tensorboard = tensorboard_logger(run_of_test)
        assert isinstance(tensorboard, L.Callback)
        loggers = [MetricsFile(run_of_test), tensorboard]
        saving = LastCheckpoint(every_n_steps=2, keep=1)
        fit(
            run_of_test.path,
            saving,
            tensorboard,
            validate_every=2,
            stop=stop,
            resume=resume,
            logger=loggers,
        )

    checkpoints, kept = run_of_test.path / "checkpoints", run_of_test.path / "kept"
    train(2, resume=False)
    shutil.copytree(checkpoints, kept)
    train(4, resume=True)
    shutil.rmtree(checkpoints)  # what a run has that was killed before it saved again
    kept.rename(checkpoints)
    train(5, resume=True)
    events = EventAccumulator(str(run_of_test.path / "tensorboard")).Reload()
    for name in ("train/loss", "val/loss"):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        rows = [row for row in read_metrics(run_of_test) if name in row]
        written = [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]
        assert shown == written
        assert len({step for step, _ in shown}) == len(shown) >= 2


def test_a_logger_of_lightning_gets_a_place_in_the_run_and_the_config_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OF_MINE", "hush-hush")
    config = {"name": "mine", "key": "${oc.env:OF_MINE}"}
    run = Run.create(tmp_path / "run", OmegaConf.create(config))
    settings = {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "mine"}
    logger = build_logger(partial(CSVLogger, name="mine"), settings, run)
    assert logger is not None
    logger.log_metrics({"train/loss": 1.0}, step=1)
    logger.save()
    [written] = (run.path / "mine").glob("*/hparams.yaml")
    assert yaml.safe_load(written.read_text()) == config
    assert (written.parent / "metrics.csv").read_text().split() == ["step,train/loss", "1,1.0"]


def test_a_place_that_was_given_is_kept(run_of_test: Run, tmp_path: Path):
    place = str(tmp_path / "elsewhere")
    settings = {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": place}
    logger = build_logger(partial(CSVLogger, save_dir=place), settings, run_of_test)
    assert logger is not None
    assert logger.save_dir == place


@pytest.mark.bad_input
@pytest.mark.parametrize("place", ["wandb", "wandb/checkpoints", "wandb/data", "tensorboard"])
def test_a_folder_that_leads_out_of_the_run_is_not_written_into(
    run_of_test: Run, tmp_path: Path, place: str
):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = run_of_test.path / place
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    with pytest.raises(UserError, match=f"{place} is a link to {outside}"):
        tensorboard_logger(run_of_test) if place == "tensorboard" else tracker_of(run_of_test)
    assert not any(outside.iterdir())


def test_links_of_wandb_s_own_do_no_harm(run_of_test: Run):
    for _ in range(2):  # the second finds the links of the first
        end(tracker_of(run_of_test))


@pytest.mark.bad_input
@pytest.mark.parametrize("package", ["tensorboard"])
def test_a_package_that_is_missing_is_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, package: str
):
    monkeypatch.setattr("everytoken.tracking.settings.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install .*\[{package}\]"):
        CHECKS[f"{package}_logger"]({})


@pytest.mark.parametrize("fails", [500, 401, "hangs"])
def test_a_server_that_fails_delays_the_start_and_no_more(
    run_of_test: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fails: int | str,
):
    monkeypatch.setattr(tracking, "INIT_SECONDS", 2.0)
    monkeypatch.setattr(sys, "argv", ["train", "+notes=hush-hush"])
    with serving(fails) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        started = time.monotonic()
        tracker = tracker_of(run_of_test, mode="auto")
        assert time.monotonic() - started < 60
        train(run_of_test, tracker, range(3))
        end(tracker)
    told = capsys.readouterr().out
    assert "recording offline, as it can't be reached" in told
    # A folder run-… may be left of the attempt, but the server has nothing that would come twice.
    assert "upload with: " in told
    assert_each_once(recorded(run_of_test), 3)
    assert sys.argv[1:] == ["+notes=hush-hush"]
    for file in run_of_test.path.rglob("*"):
        if file.is_file():
            for secret in (KEY, "hush-hush"):
                assert secret.encode() not in file.read_bytes(), file


def test_a_server_that_fails_later_is_told_of_and_upload_makes_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    logger = {"_target_": "everytoken.tracking.wandb_logger", **SETTINGS}
    cfg = OmegaConf.create({"name": "mine", "logger": {"wandb": logger}})
    run = Run.create(tmp_path / "run", cfg)
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 4.0)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        tracker = tracker_of(run, mode="online")
        server.fails = "hangs"
        started = time.monotonic()
        train(run, tracker, range(4))
        assert time.monotonic() - started < 60  # the server answers after 600
        tracker.finish()
        assert time.monotonic() - started < 60
        assert (
            f"upload it with: python -m everytoken.tracking {run.path}" in capsys.readouterr().out
        )
        wandb.teardown()
        server.fails = None
        run.summary_file.write_text('{"test/loss": 0.5}')
        for _ in range(2):  # the second time there is nothing to do
            end(upload(run.path))
            assert_each_once(server.lines(run.identity["id"]), 4)


@pytest.mark.bad_input
def test_upload_refuses_what_it_cannot_upload(tmp_path: Path):
    with pytest.raises(UserError, match="no run directory"):
        upload(tmp_path / "nothing")
    cfg = OmegaConf.create({"name": "mine", "logger": {}})
    with pytest.raises(UserError, match="isn't tracked"):
        upload(Run.create(tmp_path / "run", cfg).path)


def test_nothing_is_recorded_if_wandb_is_disabled_or_can_write_nothing(
    run_of_test: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert tracking.wandb_logger(run_of_test, **SETTINGS) is None
    monkeypatch.delenv("WANDB_MODE")
    (run_of_test.path / "wandb").write_text("a file")
    monkeypatch.setattr(wandb, "init", lambda **_: (_ for _ in ()).throw(OSError("no room")))
    assert tracking.wandb_logger(run_of_test, **SETTINGS) is None
    assert "recording nothing (no room)" in capsys.readouterr().out


def test_only_rank_0_has_a_run(run_of_test: Run, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert tracking.wandb_logger(run_of_test, **SETTINGS) is None
    assert not (run_of_test.path / "wandb").exists()


def test_uncommitted_changes_are_saved(run_of_test: Run, monkeypatch: pytest.MonkeyPatch):
    def git(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        assert command[0] == "git"
        return subprocess.CompletedProcess(command, 0, stdout=b"+one line\n" * 200_000)

    tracker = tracker_of(run_of_test)
    monkeypatch.setattr("everytoken.tracking.logger.subprocess.run", git)
    tracking._save_diff(tracker.experiment)
    end(tracker)
    [file] = run_of_test.path.glob("wandb/offline-run-*/files/diff.patch")
    assert file.stat().st_size == 1_000_000
    assert b"diff.patch" in logs(run_of_test)[0].read_bytes()


def test_a_run_in_a_sweep_has_the_id_that_the_agent_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cfg = OmegaConf.create({"name": "mine"})
    monkeypatch.setenv("WANDB_RUN_ID", "agents01")
    assert Run.create(tmp_path / "alone", cfg).identity["id"] != "agents01"
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep01")
    run = Run.create(tmp_path / "trial", cfg)
    assert run.identity["id"] == "agents01"
    tracker = tracker_of(run)
    MetricsFile(run)
    end(tracker)
    content = logs(run)[0].read_bytes()
    assert b"agents01" in content
    assert b"sweep01" in content
