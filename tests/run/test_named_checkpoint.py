"""What `checkpoint=` and `run=` name."""

from pathlib import Path

import pytest

from everytoken.errors import UserError
from everytoken.run.directory import Run
from everytoken.run.named_checkpoint import NamedCheckpoint, pointed


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run" / "checkpoints"
    (folder / "odd").mkdir(parents=True)
    for name in ("best", "last", "last-1", "epoch=0-step=20", "odd/loss=0.3", "raw-mine"):
        (folder / f"{name}.ckpt").touch()
    (tmp_path / "elsewhere.ckpt").touch()
    return Run(tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "file", "label"),
    [
        ("best", "run/checkpoints/best.ckpt", "best"),
        ("last-1", "run/checkpoints/last-1.ckpt", "last-1"),
        ("best.ckpt", "run/checkpoints/best.ckpt", "best"),
        ("epoch=0-step=20", "run/checkpoints/epoch=0-step=20.ckpt", "epoch=0-step=20"),
        ("odd/loss=0.3", "run/checkpoints/odd/loss=0.3.ckpt", "loss=0.3"),
        ("run/checkpoints/last.ckpt", "run/checkpoints/last.ckpt", "last"),
        ("elsewhere.ckpt", "elsewhere.ckpt", "elsewhere"),
        ("raw-mine", "run/checkpoints/raw-mine.ckpt", "raw-mine"),
    ],
)
@pytest.mark.parametrize("raw", ["", "raw-"])
def test_a_name_is_a_file_of_the_run_or_a_path(
    run: Run, name: str, file: str, label: str, raw: str
) -> None:
    for given in (name, str(Path(name).absolute()) if "/" in file and "run/" in name else name):
        found = NamedCheckpoint.of(run, f"{raw}{given}")
        assert found.path.samefile(file)
        assert (found.is_raw, found.label) == (bool(raw), f"{raw}{label}")


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["first", "raw-first", "checkpoints", "odd", "nowhere/best.ckpt"])
def test_what_isnt_there_is_refused_with_what_is(run: Run, name: str) -> None:
    message = f"no checkpoint {name} in run: choose one of best, epoch=0-step=20, last, last-1, raw"
    with pytest.raises(UserError, match=message):
        NamedCheckpoint.of(run, name)


@pytest.mark.bad_input
def test_a_run_that_has_saved_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no checkpoint: none of its callbacks saved one"):
        NamedCheckpoint.of(Run(tmp_path), "last")


def test_run_may_name_a_checkpoint(run: Run) -> None:
    for file in ("run/checkpoints/last-1.ckpt", Path("run/checkpoints/last-1.ckpt").absolute()):
        place, name = pointed(str(file), "best")
        assert Path(place) == run.path
        assert NamedCheckpoint.of(run, name).label == "last-1"
    assert pointed("run", "last") == ("run", "last")


@pytest.mark.bad_input
def test_two_checkpoints_are_one_too_many() -> None:
    with pytest.raises(UserError, match=r"run=a/b\.ckpt names a checkpoint, and checkpoint=last"):
        pointed("a/b.ckpt", "last")
