"""metrics.csv: one line for each logged moment."""

import csv
import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from everytoken.errors import FAILURE, BrokenRunError
from everytoken.run.directory import Run
from everytoken.run.metrics_file import MetricsFile
from everytoken.run.metrics_reader import read_metrics
from support.fitting import full_disk


@pytest.fixture
def run_of_test(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", OmegaConf.create({"name": "mine"}))


def lines(run: Run) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_logged_moment_is_a_line_at_once(run_of_test: Run):
    file = MetricsFile(run_of_test)
    file.log_metrics({"train/loss": 2.5, "epoch": 0}, step=1)
    assert lines(run_of_test) == [{"step": "1", "train/loss": "2.5"}]
    file.log_metrics({"val/loss": 2.25}, step=1)
    file.log_metrics({"train/loss": 2.0}, step=2)
    assert lines(run_of_test) == [
        {"step": "1", "train/loss": "2.5", "val/loss": ""},
        {"step": "1", "train/loss": "", "val/loss": "2.25"},
        {"step": "2", "train/loss": "2.0", "val/loss": ""},
    ]
    names = {path.name for path in run_of_test.path.iterdir()}
    assert names == {"config.yaml", "run.json", "metrics.csv"}  # nothing temporary is left


def test_a_file_that_exists_is_continued(run_of_test: Run):
    MetricsFile(run_of_test).log_metrics({"a": 1.0}, step=1)
    MetricsFile(run_of_test).log_metrics({"b": 2.0}, step=2)
    assert [row["step"] for row in lines(run_of_test)] == ["1", "2"]


def test_checkpoints_land_in_the_run_directory(run_of_test: Run):
    file = MetricsFile(run_of_test)
    parts = (file.save_dir, file.name, file.version, "checkpoints")
    assert Path(os.path.join(*parts)) == run_of_test.checkpoint("best").parent


def test_a_file_is_cut_back_to_what_it_was(run_of_test: Run):
    """Lines, columns that came later, a torn last line: as if they had never been."""
    file = MetricsFile(run_of_test)
    file.log_metrics({"train/loss": 2.5}, step=1)
    file.log_metrics({"train/loss": 2.0}, step=2)
    before, count = file.path.read_bytes(), file.lines
    file.log_metrics({"val/loss": 2.25}, step=2)
    with file.path.open("a") as torn:
        torn.write("3,1.")
    again = MetricsFile(run_of_test)
    again.cut(count)
    assert again.path.read_bytes() == before
    again.log_metrics({"val/loss": 2.25}, step=2)
    assert again.lines == count + 1 == 3
    again.cut(0)
    assert not again.path.exists()
    again.log_metrics({"other": 1.0}, step=1)
    assert lines(run_of_test) == [{"step": "1", "other": "1.0"}]


def test_a_full_disk_ends_the_run_and_loses_no_line_that_a_checkpoint_counts_on(run_of_test: Run):
    file = MetricsFile(run_of_test)
    file.log_metrics({"train/loss": 0.5}, 0)
    kept = file.lines

    def log_on() -> None:
        for step in range(1, 999):
            file.log_metrics({"train/loss": 0.5, f"val/{step // 50}": 1.0}, step)

    with full_disk(), pytest.raises(BrokenRunError) as told:
        log_on()
    again = f"go on with python -m train resume={run_of_test.shown}"
    assert str(told.value).startswith(f"can't write {file.path} (File too large): make room")
    assert str(told.value).endswith(again)
    assert told.value.exit_code == FAILURE
    resumed = MetricsFile(run_of_test)
    resumed.cut(kept)
    resumed.log_metrics({"train/loss": 0.25}, 1)
    assert file.path.read_text().split() == ["step,train/loss", "0,0.5", "1,0.25"]


def test_a_line_is_appended_without_reading_the_file(
    run_of_test: Run, monkeypatch: pytest.MonkeyPatch
):
    file = MetricsFile(run_of_test)
    file.log_metrics({"a": 1.0}, step=1)
    monkeypatch.setattr(file, "_read", lambda: pytest.fail("read"))
    file.log_metrics({"a": 2.0}, step=2)
    assert file.lines == 2


def test_lines_are_read_back_as_far_as_they_were_written(run_of_test: Run):
    assert read_metrics(run_of_test) == []
    file = MetricsFile(run_of_test)
    file.log_metrics({"a": 1.5}, step=1)
    file.log_metrics({"b": float("inf")}, step=2)
    with file.path.open("ab") as torn:
        torn.write(b"\0\0\0003,,x\xff\n4,2.")  # zeros as after a power cut
    assert read_metrics(run_of_test) == [
        {"step": 1.0, "a": 1.5},
        {"step": 2.0, "b": float("inf")},
        {"step": 3.0},
        {"step": 4.0, "a": 2.0},
    ]
