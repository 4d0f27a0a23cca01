"""Code of one's own that lies outside of src/: trained, evaluated, generated from and resumed."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from support import prefork
from support.helpers import assert_refused, run, summary
from support.small_runs import SMALL

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CODE = """
import lightning as L
from everytoken.model import Transformer

class Mine(L.Callback):
    def on_train_end(self, trainer, pl_module):
        print("mine was called")

class Model(Transformer):
    pass
"""
YAML = "defaults: [tiny, _self_]\n_target_: my_package.Model\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "my_package.py").write_text(CODE)
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    (tmp_path / "my_conf" / "model" / "mine.yaml").write_text(YAML)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    return tmp_path


@contextmanager
def in_another_home() -> Iterator[None]:
    """As somebody else, or on another machine: without the key that seals the user's own runs."""
    with TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", home)
        yield


def succeed(folder: Path, *words: str) -> str:
    done = run(folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def export(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return prefork.run(folder, str(ROOT / "scripts" / "export_hf.py"), *words)


def test_a_callback_that_was_typed_is_in_nobodys_way(folder: Path):
    mine = "+callbacks.mine._target_=my_package.Mine"
    printed = succeed(folder, "train", "hydra.run.dir=run", "trainer=cpu", *SMALL, mine)
    assert "mine was called" in printed
    succeed(folder, "eval", "run=run", "trainer=cpu")
    (folder / "in.txt").write_text("1. 2. 2003\n")
    succeed(folder, "generate", "run=run", "input=in.txt", "output=out.txt")
    shutil.copytree(folder / "run", folder / "copy")
    succeed(folder, "compare", "run=[run,copy]")
    assert export(folder, "run=run", "out=exported").returncode == 0
    longer = ("resume=run", "trainer.max_steps=8")
    with in_another_home():
        assert_refused(run(folder, "train", *longer), "my_package.Mine", "trust=my_package.Mine")
    assert summary(folder / "run")["steps"] == 6  # nothing was touched
    assert "mine was called" in succeed(folder, "train", *longer)  # it was typed before
    assert summary(folder / "run")["steps"] == 8
    config = folder / "run" / "config.yaml"
    config.write_text(config.read_text().replace("z_loss: 0.0", "z_loss: 0.1"))  # by somebody
    longer = ("resume=run", "trainer.max_steps=9")
    assert_refused(run(folder, "train", *longer), "my_package.Mine", "trust=my_package.Mine")
    assert "mine was called" in succeed(folder, "train", *longer, "trust=my_package.Mine")


def test_choices_of_another_folder_are_found_again_with_it(folder: Path):
    conf = ("--config-dir", "my_conf")
    succeed(folder, "train", *conf, "model=mine", "hydra.run.dir=run", "trainer=cpu", *SMALL)
    succeed(folder, "eval", "run=run", "trainer=cpu")
    with in_another_home():
        assert_refused(run(folder, "eval", "run=run"), "my_package.Model", "--config-dir")
        succeed(folder, "eval", *conf, "run=run", "trainer=cpu")
        assert_refused(export(folder, "run=run", "out=exported"), "trust=my_package.Model")
        assert export(folder, "run=run", "out=exported", "trust=my_package.Model").returncode == 0
    longer = ("resume=run", "trainer.max_steps=8")
    assert_refused(run(folder, "train", *longer), "--config-dir", "my_conf")
    assert "goes on with trainer.max_steps 6 -> 8" in succeed(folder, "train", *conf, *longer)
