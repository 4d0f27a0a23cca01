"""What is kept as best, averaged, evaluated, exported and generated from is what the words say.

One run keeps everything that a run can keep: the best by accuracy, the two best by loss, the last
ones, and an average that begins on the way. Each file is then used in each way.
"""

import csv
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from everytoken.run.checkpoint_file import read
from support.helpers import run_here, summary
from support.readmes import ROOT

pytestmark = pytest.mark.slow

BEGIN = 3
WORDS = [
    *("task=causal_lm", "data=pydoc", "data.limit_examples=8", "task.objective.window_tokens=32"),
    *("model.layers=1", "model.width=32", "model.heads=2", "model.ffn_width=48", "trainer=cpu"),
    *("logger=none", "data.batch_tokens=200", "optimizer.lr=0.01", "task.max_new_tokens=null"),
    *("trainer.max_steps=7", "trainer.val_check_interval=1", "callbacks.last_checkpoint.keep=1"),
    *("callbacks=ema", f"+callbacks.ema.update_starting_at_step={BEGIN}"),
    "callbacks.best_checkpoint.monitor=val/accuracy",
    "+callbacks.top={_target_: lightning.pytorch.callbacks.ModelCheckpoint, monitor: val/loss,"
    " save_top_k: 2}",
    *(f"callbacks.{name}=null" for name in ("machine_use", "report", "show_predictions")),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    done = run_here(folder, "train", "hydra.run.dir=run", *WORDS)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def validated(folder: Path) -> dict[str, dict[int, float]]:
    """What each validation of training found, by metric and step."""
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/loss"]]
    names = ("val/loss", "val/accuracy")
    return {name: {int(row["step"]): float(row[name]) for row in rows} for name in names}


def files(folder: Path) -> dict[str, int]:
    """All checkpoints, and the step of each."""
    paths = sorted((folder / "run" / "checkpoints").glob("*.ckpt"))
    return {path.stem: read(path)["global_step"] for path in paths}


def test_best_is_the_step_of_the_best_validation(
    folder: Path, validated: dict[str, dict[int, float]]
) -> None:
    assert set(validated["val/loss"]) == set(range(1, 8))
    accuracy, loss = validated["val/accuracy"], validated["val/loss"]
    kept = files(folder)
    assert accuracy[kept["best"]] == max(accuracy.values())
    assert summary(folder / "run")["best/step"] == kept["best"]
    assert kept["last"] == 7
    top = [step for name, step in kept.items() if name.startswith("epoch=")]
    assert sorted(top) == sorted(sorted(loss, key=lambda step: loss[step])[:2])


def test_each_is_evaluated_as_it_was_validated_and_told_with_its_step(
    folder: Path, validated: dict[str, dict[int, float]]
) -> None:
    kept = files(folder)
    for name, step in kept.items():
        averaged = step > BEGIN
        found = evaluated(folder, name, "averaged weights" if averaged else "weights", step)
        assert found["val/loss"] == pytest.approx(validated["val/loss"][step], rel=1e-5), name
    raw = evaluated(folder, "raw-last", "trained weights", 7)
    assert raw["val/loss"] != pytest.approx(validated["val/loss"][7], rel=1e-5)
    of_best = summary(folder / "run")
    assert of_best["val/loss"] == pytest.approx(
        validated["val/loss"][int(of_best["best/step"])], rel=1e-5
    )


def evaluated(folder: Path, name: str, kind: str, step: int) -> dict[str, float]:
    done = run_here(folder, "eval", "run=run", "split=val", f"checkpoint='{name}'", "trainer=cpu")
    assert re.search(rf"\.ckpt: {kind} of step {step}\n", done.stdout), (done.stdout, done.stderr)
    return json.loads((folder / "run" / f"eval-val-{name}.json").read_text())


def test_what_is_generated_from_and_exported_is_told_with_its_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "in.txt").write_text("The\n")
    best = files(folder)["best"]
    words = ["input=in.txt", "output=out.txt", "max_new_tokens=2"]
    done = run_here(folder, "generate", "run=run/checkpoints/best.ckpt", *words)
    kind = "averaged weights" if best > BEGIN else "weights"
    assert f"best.ckpt: {kind} of step {best}" in done.stderr, done.stderr
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["export_hf.py", "run=run", "out=out", "checkpoint=raw-last"])
    runpy.run_path(str(ROOT / "scripts" / "export_hf.py"), run_name="__main__")
    assert "last.ckpt: trained weights of step 7" in capsys.readouterr().out
