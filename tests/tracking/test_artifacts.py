"""Checkpoints as artifacts: how many are kept, and that W&B copies none of them."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from omegaconf import OmegaConf

from everytoken.run.directory import Run
from everytoken.tracking.artifacts import CheckpointArtifacts
from everytoken.tracking.wandb_files import records
from support.tracked import end, logs, tracker_of


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("everytoken.tracking.wandb_environment._ours", {})
    yield
    wandb.teardown()


@pytest.fixture
def run_of_test(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", OmegaConf.create({"name": "mine"}))


def save(run: Run, content: bytes) -> Path:
    """As checkpoints are saved: written beside it, then renamed."""
    best = run.checkpoint("best")
    best.parent.mkdir(exist_ok=True)
    new = best.with_suffix(".tmp")
    new.write_bytes(content)
    new.replace(best)
    return best


class Server:
    """What the artifacts say to W&B, without a server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.versions: dict[int, bytes] = {}
        self.count = 0
        monkeypatch.setattr(wandb, "Api", lambda timeout: self)

    def log_artifact(self, artifact: wandb.Artifact, aliases: list[str]) -> None:
        [entry] = artifact.manifest.entries.values()
        assert entry.local_path is not None
        self.versions[self.count] = Path(entry.local_path).read_bytes()
        self.count += 1

    def artifact_collection_exists(self, path: str, kind: str) -> bool:
        assert (path, kind) == ("e/p/checkpoint-one", "model")
        return bool(self.versions)

    def artifacts(self, kind: str, path: str) -> list[Any]:
        def version(n: int) -> Any:
            return SimpleNamespace(
                version=f"v{n}", delete=lambda delete_aliases: self.versions.pop(n)
            )

        # The newest isn't there yet: W&B uploads it later.
        return [version(n) for n in self.versions if n < self.count - 1]

    @property
    def experiment(self) -> Any:
        return SimpleNamespace(
            id="one", entity="e", project="p", offline=False, log_artifact=self.log_artifact
        )


def test_each_new_best_is_logged_and_the_newest_are_kept(
    run_of_test: Run, monkeypatch: pytest.MonkeyPatch
):
    server = Server(monkeypatch)
    artifacts = CheckpointArtifacts(server.experiment, run_of_test, "all", keep=2)
    for i in range(5):
        upload = artifacts.saved(save(run_of_test, b"%d" % i))
        assert upload is not None
        upload()
    assert artifacts.trained() is None  # the best one was logged
    assert list(server.versions.values()) == [b"3", b"4"]
    kept = sorted(artifacts.folder.iterdir())
    assert [file.read_bytes() for file in kept] == [b"3", b"4"]
    assert kept[-1].samefile(run_of_test.checkpoint("best"))  # a link takes no room


def test_uploads_that_newer_ones_have_overtaken_are_left_out(
    run_of_test: Run, monkeypatch: pytest.MonkeyPatch
):
    server = Server(monkeypatch)
    artifacts = CheckpointArtifacts(server.experiment, run_of_test, "all", keep=1)
    uploads = [artifacts.saved(save(run_of_test, b"%d" % i)) for i in range(3)]
    for upload in uploads:
        assert upload is not None
        upload()
    assert list(server.versions.values()) == [b"2"]


@pytest.mark.parametrize("which", ["none", "best", "all"])
def test_offline_the_best_is_read_where_it_is_and_nothing_is_copied(run_of_test: Run, which: str):
    tracker = tracker_of(run_of_test, log_checkpoints=which)
    for i in range(3):
        best = save(run_of_test, bytes([65 + i]) * 300_000)
        tracker.after_save_checkpoint(_model_checkpoint(best))
    tracker.finalize("failed")
    tracker.finalize("success")
    tracker.finalize("success")  # after each of fit, validate and test
    end(tracker)
    logged = [r.artifact for r in records(logs(run_of_test)[0]) if r.HasField("artifact")]
    assert len(logged) == (which != "none")
    for artifact in logged:
        [entry] = artifact.manifest.contents
        assert Path(entry.local_path).read_bytes() == b"C" * 300_000
    large = [f for f in run_of_test.path.rglob("*") if f.is_file() and f.stat().st_size >= 300_000]
    assert len({file.stat().st_ino for file in large}) == 1


def _model_checkpoint(best: Path) -> Any:
    from lightning.pytorch.callbacks import ModelCheckpoint

    callback = ModelCheckpoint()
    callback.best_model_path = str(best)
    return callback
