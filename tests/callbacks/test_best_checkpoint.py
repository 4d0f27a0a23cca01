"""The best checkpoint: one file that is what its name says, whatever happened to the run."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging

from everytoken.callbacks.best_checkpoint import BestCheckpoint
from everytoken.callbacks.last_checkpoint import LastCheckpoint
from everytoken.run.checkpoint_file import read
from support.fitting import STEPS, fit, full_disk


class Scores(L.Callback):
    """Logs a score of the test's choice in each validation, and can do something before it."""

    def __init__(self, *scores: float, before: Callable[[int], Any] = id) -> None:
        self.scores = scores
        self.before = before

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.before(trainer.global_step)
        pl_module.log("score", self.scores[trainer.global_step - 1])


def best(folder: Path) -> dict[str, Any]:
    return read(folder / "checkpoints" / "best.ckpt")


@pytest.mark.parametrize(("mode", "step"), [("min", 2), ("max", 4)])
def test_best_is_of_the_best_validation(tmp_path: Path, mode: str, step: int) -> None:
    fit(tmp_path, BestCheckpoint("score", mode), Scores(3, 1, 2, 5, 4), validate_every=1)
    assert best(tmp_path)["global_step"] == step
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["best.ckpt"]


def test_what_could_not_be_saved_is_not_the_best(tmp_path: Path) -> None:
    """The disk is full in validations 2 and 3, of which 2 is the best of all."""
    disk = ExitStack()

    def before(step: int) -> None:
        if step == 2:
            disk.enter_context(full_disk())
        if step == 4:
            disk.close()

    callback = BestCheckpoint("score", "min")
    fit(tmp_path, callback, Scores(5, 1, 3, 4, 6, before=before), validate_every=1)
    assert best(tmp_path)["global_step"] == 4
    assert callback.best_model_score == 4


@pytest.mark.parametrize("place", ["run", "moved"])
def test_a_resumed_run_knows_its_best_wherever_it_lies(tmp_path: Path, place: str) -> None:
    def parts() -> list[L.Callback]:
        return [Scores(3, 1, 2, 4, 5), BestCheckpoint("score", "min"), LastCheckpoint(1, 1)]

    fit(tmp_path / "run", *parts(), stop=3, validate_every=1)
    folder = (tmp_path / "run").rename(tmp_path / place)
    fit(folder, *parts(), resume=True, validate_every=1)
    assert read(folder / "checkpoints" / "last.ckpt")["global_step"] == STEPS
    assert best(folder)["global_step"] == 2


def test_a_resumed_run_whose_best_is_damaged_finds_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def parts() -> list[L.Callback]:
        return [Scores(3, 1, 2, 4, 5), BestCheckpoint("score", "min"), LastCheckpoint(1, 1)]

    fit(tmp_path, *parts(), stop=3, validate_every=1)
    file = tmp_path / "checkpoints" / "best.ckpt"
    file.write_bytes(file.read_bytes()[:-100])
    fit(tmp_path, *parts(), resume=True, validate_every=1)
    assert best(tmp_path)["global_step"] == 4
    assert "best.ckpt is damaged or cut off" in capsys.readouterr().out


def is_plain(part: Any) -> bool:
    if isinstance(part, dict):
        return all(is_plain(key) and is_plain(value) for key, value in part.items())
    if isinstance(part, list | tuple):
        return all(is_plain(value) for value in part)
    return part is None or type(part) in (str, int, float, bool, torch.Tensor)


def test_checkpoints_hold_plain_containers_and_no_paths(tmp_path: Path) -> None:
    """Whatever callbacks there are: `read` accepts them only if torch finds nothing else."""
    fit(
        tmp_path,
        EMAWeightAveraging(decay=0.9),
        Scores(5, 4, 3, 2, 1),
        EarlyStopping("score", patience=9),
        BestCheckpoint("score", "min"),
        LastCheckpoint(2, 2),
        validate_every=1,
    )
    for name in ("best", "last", "last-1"):
        checkpoint = read(tmp_path / "checkpoints" / f"{name}.ckpt")
        callbacks = str(checkpoint["callbacks"])
        assert "EarlyStopping" in callbacks
        assert "best_score" in callbacks
        assert "averaging_state" in checkpoint
        assert is_plain({**checkpoint, "state_dict": dict(checkpoint["state_dict"])})
        assert str(tmp_path) not in str(checkpoint)
