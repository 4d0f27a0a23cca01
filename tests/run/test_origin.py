"""What `init_from=` names."""

import hashlib
from pathlib import Path

import pytest

from everytoken.errors import UserError
from everytoken.run.origin import Origin
from support.continuing import new_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """With both checkpoints."""
    made = new_run(tmp_path / "run")
    made.checkpoint("best").parent.mkdir()
    for name in ("best", "last"):
        made.checkpoint(name).write_text(name)
    return made.path


def test_of_a_run_it_is_the_best_checkpoint_or_the_last_or_the_one_that_is_named(run: Path):
    best, last = (run / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    assert Origin.find(str(run)).files == (best,)
    assert Origin.find(str(last)).files == (last,)
    assert Origin.find(str(last)).tokenizer_file == run / "tokenizer.json"
    best.unlink()
    assert Origin.find(str(run)).files == (last,)


def test_a_folder_for_transformers_is_one_too(tmp_path: Path):
    for name in ("config.json", "b.safetensors", "a.safetensors"):
        (tmp_path / name).write_text(name)
    found = Origin.find(str(tmp_path))
    assert [file.name for file in found.files] == ["a.safetensors", "b.safetensors"]
    assert found.run is None
    digest = hashlib.sha256(b"a.safetensorsb.safetensors").hexdigest()
    assert found.record() == {"path": str(tmp_path), "sha256": digest}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "is no run directory .* and no folder with config.json and safetensors"),
        (["config.json", "pytorch_model.bin"], "is no run directory"),
        (["model.pt2"], "holds a program, model.pt2: give the run that it was exported from"),
    ],
)
def test_another_folder_is_refused(tmp_path: Path, made: list[str], message: str):
    for name in made:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=message):
        Origin.find(str(tmp_path))


@pytest.mark.bad_input
def test_a_file_that_is_no_runs_checkpoint_and_a_run_without_one_are_refused(
    tmp_path: Path, run: Path
):
    (tmp_path / "x.ckpt").touch()
    for file in (tmp_path / "x.ckpt", run / "config.yaml"):
        with pytest.raises(UserError, match="is no checkpoint in a run's checkpoints/"):
            Origin.find(str(file))
    for name in ("best", "last"):
        (run / "checkpoints" / f"{name}.ckpt").unlink()
    with pytest.raises(UserError, match="this run has no checkpoint best or last"):
        Origin.find(str(run))
