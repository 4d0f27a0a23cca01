"""scripts/plot_run.py: a picture of a run's curves."""

import json
import subprocess
from pathlib import Path

import pytest

from support import prefork

SCRIPT = Path(__file__).parents[2] / "scripts" / "plot_run.py"
SUMMARY = {"seconds/fit": 12.0, "real_tokens": 3_000_000, "test/accuracy": 0.5}


def plot(*arguments: Path) -> subprocess.CompletedProcess[str]:
    return prefork.run(Path.cwd(), str(SCRIPT), *map(str, arguments))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    lines = ["step,train/loss,val/loss,train/accuracy", "1,2.5,,0.1", "2,2.0,,0.2", "2,,1.9,"]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    return folder


def test_curves_are_drawn(run: Path, tmp_path: Path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "picture.svg"
    done = plot(run, picture)
    assert done.returncode == 0, done.stderr
    drawn = picture.read_text()
    for text in ("optimizer steps", "validation", "tokens, training", "token accuracy 0.5000"):
        assert text in drawn
    assert "BLEU" not in drawn


def test_the_best_step_is_marked_and_a_smoothed_loss_stands_apart(run: Path, tmp_path: Path):
    pytest.importorskip("matplotlib")
    (run / "summary.json").write_text(json.dumps(SUMMARY | {"best/step": 2}))
    (run / "config.yaml").write_text("module: {label_smoothing: 0.1}\n")
    picture = tmp_path / "picture.svg"
    elsewhere = tmp_path / "elsewhere"
    picture.symlink_to(elsewhere)
    done = plot(run, picture)
    assert done.returncode == 0, done.stderr
    assert not elsewhere.exists()
    for text in ("best checkpoint", "training loss with label smoothing 0.1"):
        assert text in picture.read_text()


@pytest.mark.bad_input
def test_what_cant_be_drawn_is_one_line(run: Path, tmp_path: Path):
    pytest.importorskip("matplotlib")
    for folder, picture, message in (
        (tmp_path / "none", "a.png", "has no summary.json: give the directory of a finished run"),
        (run, "a.jpegs", "give a .png or .svg file"),
        (run, "none/a.png", "give a .png or .svg file"),
    ):
        done = plot(folder, tmp_path / picture)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith("error: ")
        assert done.stderr.endswith(f"{message}\n")
    (run / "summary.json").write_text("[]")
    (run / "metrics.csv").write_text("")
    for message in (
        "summary.json (it holds [], no object): restore it",
        "has no curves in metrics",
    ):
        done = plot(run, tmp_path / "a.png")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr
        (run / "summary.json").write_text("{}")
