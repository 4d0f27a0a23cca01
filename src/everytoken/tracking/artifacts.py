"""Checkpoints as artifacts of Weights & Biases, without filling the disk.

W&B would copy each file into a staging folder and a cache. Instead a hard link is made in the run
directory, which takes no room as long as the checkpoint itself is there, and W&B reads that.
"""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import wandb

from everytoken.run.checkpoint_file import is_sharded, read, write
from everytoken.run.directory import Run


class CheckpointArtifacts:
    """Versions of one artifact, of which the newest few are kept.

    Args:
        experiment: an open W&B run.
        run: whose checkpoints.
        which: "none"; "best": the best one, when training is over; "all": each new best as it is
            saved. Offline "all" means "best", for what isn't uploaded must stay on the disk.
        keep: versions that are kept, in the run directory and on the server.
    """

    def __init__(self, experiment: wandb.Run, run: Run, which: str, keep: int) -> None:
        self.experiment = experiment
        self.which = "best" if which == "all" and experiment.offline else which
        self.keep = keep
        self.name = f"checkpoint-{experiment.id}"
        self.folder = run.path / "wandb" / "checkpoints"
        self.best: Path | None = None
        self.logged_at = 0
        """When the file that was logged last had been written, in nanoseconds."""

    def saved(self, best: Path) -> Callable[[], None] | None:
        """There is a new best checkpoint; what uploads it, and may take long, if it is asked for.

        Raises:
            OSError: it can't be kept for that.
        """
        self.best = best
        return self._keep(best) if self.which == "all" else None

    def trained(self) -> Callable[[], None] | None:
        """Training is over; the same."""
        return self._keep(self.best) if self.which != "none" and self.best is not None else None

    def _keep(self, file: Path) -> Callable[[], None] | None:
        if not file.is_file():
            return None  # it is being written: the next one then, or when training is over
        written = file.stat().st_mtime_ns
        if written == self.logged_at:
            return None
        self.logged_at = written
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = self.folder / f"{written}.ckpt"
        _link(file, kept)
        for old in sorted(self.folder.glob("*.ckpt"))[: -self.keep]:
            old.unlink()
        return partial(self._upload, kept)

    def _upload(self, file: Path) -> None:
        if not file.exists():
            return  # newer ones came while W&B was busy
        artifact = wandb.Artifact(self.name, type="model")
        artifact.add_file(str(file), name="best.ckpt", policy="immutable", skip_cache=True)
        self.experiment.log_artifact(artifact, aliases=["best"])
        if not self.experiment.offline:
            self._drop_old()

    def _drop_old(self) -> None:
        """Delete versions on the server: of those that it has, this one not counted yet."""
        path = f"{self.experiment.entity}/{self.experiment.project}/{self.name}"
        api = wandb.Api(timeout=30)
        if api.artifact_collection_exists(path, "model"):
            newest_first = sorted(
                api.artifacts("model", path), key=lambda a: int(a.version[1:]), reverse=True
            )
            for old in newest_first[self.keep - 1 :]:
                old.delete(delete_aliases=True)


def _link(file: Path, link: Path) -> None:
    if is_sharded(file):  # a server gets one file
        write(read(file), link, keep=1)
        return
    try:
        os.link(file, link)
    except OSError:  # a file system without links
        shutil.copyfile(file, link)
