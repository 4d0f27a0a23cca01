"""Runs of the version before the package had rooms: evaluated, generated from and resumed.

`old_runs/` holds two of them, trained with commit 2b24ec0 on pairs.tsv: one that is finished, and
the same stopped after its second step. Their config.yaml names modules that have moved, run.json
records no overrides.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from everytoken.config.moved import MOVED
from support.helpers import run, run_here

pytestmark = pytest.mark.slow
OLD = Path(__file__).parent / "old_runs"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_the_old_runs_name_what_has_moved():
    text = (OLD / "stopped" / "config.yaml").read_text()
    assert sum(name in text for name in MOVED) == 8
    assert "attention: grouped" in text
    assert "overrides" not in json.loads((OLD / "stopped" / "run.json").read_text())


def test_an_old_run_has_the_metrics_that_it_had(folder: Path):
    expected = json.loads((folder / "finished" / "eval-val-best.json").read_text())
    texts = (folder / "finished" / "eval-val-best.txt").read_text()
    done = run_here(folder, "eval", "run=finished", "split=val", "trainer=cpu")
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "finished" / "eval-val-best.json").read_text())
    assert found == pytest.approx(expected, rel=1e-5)
    assert (folder / "finished" / "eval-val-best.txt").read_text() == texts


def test_an_old_run_generates(folder: Path):
    (folder / "in.txt").write_text("16 and 4\n")
    words = ("run=finished", "input=in.txt", "output=out.txt", "max_new_tokens=8")
    done = run_here(folder, "generate", *words)
    assert done.returncode == 0, done.stderr
    assert len((folder / "out.txt").read_text().splitlines()) == 1


@pytest.mark.parametrize("by", ["name", "auto"])
def test_an_old_run_goes_on_to_the_weights_that_it_would_have_had(folder: Path, by: str):
    words = ["resume=stopped"]
    if by == "auto":
        words = ["--config-dir", "stopped", "--config-name", "config", "resume=auto"]
        words.append("hydra.run.dir=stopped")
    done = run_here(folder, "train", *words)
    assert done.returncode == 0, done.stderr
    assert "at step 2 of 12" in done.stdout
    assert "no longer the same run" not in done.stdout
    assert json.loads((folder / "stopped" / "summary.json").read_text())["steps"] == 12
    expected = weights(OLD / "finished")
    for name, weight in weights(folder / "stopped").items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)


def test_an_old_run_goes_on_under_overrides(folder: Path):
    words = ("resume=stopped", "trainer.max_steps=4", "trainer=ddp_cpu", "logger=csv")
    done = run(folder, "train", *words)
    assert done.returncode == 0, done.stderr
    assert "trainer.devices 1 -> 2" in done.stdout
    assert "trainer.max_steps 12 -> 4" in done.stdout
