"""A run in W&B is metrics.csv, line by line: nothing missing, doubled or out of order."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from everytoken.run.directory import Run
from everytoken.run.metrics_file import MetricsFile
from everytoken.tracking.prediction_table import Row
from everytoken.tracking.wandb_files import records
from everytoken.tracking.wandb_run import TABLE, Tracker
from support import prefork
from support.tracked import assert_each_once, end, logs, recorded, tracker_of, train
from support.wandb_server import serving


@pytest.fixture
def run_of_test(tmp_path: Path) -> Run:
    cfg = {"name": "mine", "seed": 3, "model": {"width": 8, "twice": "${seed}${seed}"}}
    return Run.create(tmp_path / "run", OmegaConf.create(cfg))


def cut(run: Run, lines: int) -> None:
    """What going on from a checkpoint does: it had been saved when there were so many lines."""
    file = run.path / "metrics.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[: lines + 1]))


def test_a_run_says_who_it_is_and_has_its_config_resolved_and_nested(run_of_test: Run):
    tracker = tracker_of(run_of_test)
    end(tracker)
    [record] = [r.run for r in records(logs(run_of_test)[0]) if r.HasField("run")]
    assert (record.run_id, record.display_name) == (run_of_test.identity["id"], "mine")
    assert (record.project, record.run_group, record.job_type) == ("p", "g", "train")
    assert (list(record.tags), record.notes) == (["a"], "why")
    config = {item.key: json.loads(item.value_json) for item in record.config.update}
    assert config["model"] == {"width": 8, "twice": "33"}
    assert config["seed"] == 3
    assert config["run"]["git_commit"] == run_of_test.identity["git_commit"]
    assert config["run"]["versions"]["torch"]


def test_each_moment_is_a_line_and_evaluation_at_the_end_is_summary_only(run_of_test: Run):
    tracker = tracker_of(run_of_test)
    train(run_of_test, tracker, range(3))
    tracker.fitting = False
    for logger in (MetricsFile(run_of_test), tracker):
        logger.log_metrics({"val/loss": 0.25, "test/loss": 0.5}, 2)
    end(tracker)
    assert_each_once(recorded(run_of_test), 3)
    summary: dict[str, Any] = {}
    axes: dict[str, str] = {}
    for record in records(logs(run_of_test)[0]):
        for item in record.summary.update:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        if record.HasField("metric"):
            axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
            if record.metric.name == "val/loss":
                assert record.metric.summary.min
    assert (summary["val/loss"], summary["test/loss"]) == (0.25, 0.5)
    assert summary["train/loss"] == pytest.approx(1 / 3)
    assert axes == {"step": "", "*": "step", "val/loss": "step"}


@pytest.mark.parametrize("checkpoint", [3, 6])
def test_a_continued_run_repeats_no_line(run_of_test: Run, checkpoint: int):
    first = tracker_of(run_of_test)
    train(run_of_test, first, range(6))
    end(first)
    cut(run_of_test, checkpoint)
    again = tracker_of(run_of_test)
    train(run_of_test, again, range(checkpoint, 9))
    end(again)
    assert len(logs(run_of_test)) == 2
    assert_each_once(recorded(run_of_test), 9)


def test_what_a_killed_run_had_not_written_is_recorded_by_the_next(run_of_test: Run):
    first = tracker_of(run_of_test)
    train(run_of_test, first, range(6))
    end(first)
    file = logs(run_of_test)[0]
    whole, lost = file.read_bytes(), 0
    survived = len(recorded(run_of_test))
    while survived > 3:  # what stands before the steps is of any size
        lost += 64
        file.write_bytes(whole[:-lost])
        survived = len(recorded(run_of_test))
    assert 0 < survived < 6
    cut(run_of_test, 5)
    again = tracker_of(run_of_test)
    train(run_of_test, again, range(5, 8))
    end(again)
    assert_each_once(recorded(run_of_test), 8)


def test_tables_belong_to_their_line_and_are_recorded_again_if_they_were_lost(run_of_test: Run):
    def validate(tracker: Tracker) -> None:
        assert tracker.line is not None
        rows = [Row("a", "b", "<b>c</b>", True)]
        tracker._write_table(tracker.line - 1, rows)
        tracker._record_table(tracker.line - 1, rows)

    first = tracker_of(run_of_test)
    train(run_of_test, first, range(2))
    validate(first)
    train(run_of_test, first, range(2, 4))
    validate(first)
    end(first)
    assert [f"{TABLE}/_type" in line for line in recorded(run_of_test)] == [False, True] * 2
    logs(run_of_test)[0].unlink()  # all is lost but the run directory's own files
    cut(run_of_test, 3)
    again = tracker_of(run_of_test)
    again.catch_up()  # as at the start of training
    train(run_of_test, again, range(3, 5))
    end(again)
    assert_each_once(recorded(run_of_test), 5)
    has_table = [f"{TABLE}/_type" in line for line in recorded(run_of_test)]
    assert has_table == [False, True, False, False, False]
    outside = {"WANDB_DATA_DIR", "WANDB_CACHE_DIR"}
    assert all(os.environ[name].startswith(str(run_of_test.path)) for name in outside)


def test_online_the_server_says_what_it_has(run_of_test: Run, monkeypatch: pytest.MonkeyPatch):
    """An offline part, then two online ones: the server has all of it, once."""
    offline = tracker_of(run_of_test)
    train(run_of_test, offline, range(2))
    end(offline)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        for checkpoint, last in ((1, 5), (3, 7)):
            cut(run_of_test, checkpoint)
            online = tracker_of(run_of_test, mode="auto")
            train(run_of_test, online, range(checkpoint, last))
            end(online)
        assert_each_once(server.lines(run_of_test.identity["id"]), 7)
    [log] = run_of_test.path.glob("wandb/offline-run-*/*.wandb")
    assert log.with_suffix(".wandb.synced").exists()  # wandb sync has nothing to do


def test_what_hangs_or_fails_in_wandb_reaches_nobody(
    run_of_test: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    tracker = tracker_of(run_of_test)
    tracker.finish_seconds = 0.3
    started = time.monotonic()

    def hang(*_: Any, **__: Any) -> None:
        if len(calls) == 3:
            time.sleep(100)
        calls.append(None)
        raise ConnectionError("the server is on fire")

    calls: list[None] = []
    monkeypatch.setattr(tracker.experiment, "log", hang)
    train(run_of_test, tracker, range(50))
    end(tracker)
    assert time.monotonic() - started < 50
    told = capsys.readouterr().out
    assert told.count("the server is on fire") == 1
    assert "upload it with: wandb sync" in told
    assert len((run_of_test.path / "metrics.csv").read_text().splitlines()) == 51


def test_a_full_disk_costs_a_table_and_no_more(
    run_of_test: Run, capsys: pytest.CaptureFixture[str]
):
    tracker = tracker_of(run_of_test)
    train(run_of_test, tracker, range(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))  # no file may grow
    try:
        tracker._write_table(0, [Row("a", "b", "c", True)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    end(tracker)
    assert "File too large" in capsys.readouterr().out
    assert_each_once(recorded(run_of_test), 1)


@pytest.mark.slow
def test_killed_runs_are_one_run_after_wandb_sync(run_of_test: Run):
    """One part is killed, with its end not written yet; then `wandb sync`, as it is told."""
    code = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support.tracked import Run, tracker_of, tracking, train
tracking.FLUSH_SECONDS = 0.5
run, start, end = Run(Path(sys.argv[2])), int(sys.argv[3]), int(sys.argv[4])
tracker = tracker_of(run)
train(run, tracker, range(start, end - 5))
if start == 0:
    time.sleep(2)
train(run, tracker, range(end - 5, end))
if end < 40:
    os.kill(os.getpid(), signal.SIGKILL)
print(tracker.upload)
"""
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    for start, last in ((0, 30), (22, 40)):
        if start:
            cut(run_of_test, start)
        words = [str(Path(__file__).parents[1]), str(run_of_test.path), str(start), str(last)]
        done = prefork.run(Path.cwd(), "-c", code, *words, env=env, timeout=120)
        assert done.returncode == (0 if last == 40 else -signal.SIGKILL), done.stderr
    assert_each_once(recorded(run_of_test), 40)
    with serving() as server:
        command = f"{sys.executable} -m {done.stdout.splitlines()[-1]}"
        key = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40}
        synced = subprocess.run(
            command, shell=True, env={**env, **key}, capture_output=True, timeout=120
        )
        assert synced.returncode == 0, synced.stderr
        assert_each_once(server.lines(run_of_test.identity["id"]), 40)
