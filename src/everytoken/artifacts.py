"""Checkpoints as artifacts of Weights & Biases, without filling the disk.

W&B would copy each file into a staging folder and a cache. Instead a hard link is made in the run
directory, which takes no room as long as the checkpoint itself is there, and W&B reads that.
"""

import os
import shutil
import threading
from pathlib import Path

import wandb

from everytoken.console import say
from everytoken.runs import Run


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

    def saved(self, best: Path) -> None:
        """There is a new best checkpoint."""
        self.best = best
        if self.which == "all":
            self._log(best)

    def trained(self) -> None:
        """Training is over."""
        if self.which != "none" and self.best is not None:
            self._log(self.best)

    def _log(self, file: Path) -> None:
        written = file.stat().st_mtime_ns
        if written == self.logged_at:
            return
        self.logged_at = written
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = self.folder / f"{written}.ckpt"
        _link(file, kept)
        artifact = wandb.Artifact(self.name, type="model")
        artifact.add_file(str(kept), name="best.ckpt", policy="immutable", skip_cache=True)
        logged = self.experiment.log_artifact(artifact, aliases=["best"])
        for old in sorted(self.folder.glob("*.ckpt"))[: -self.keep]:
            old.unlink()
        if not self.experiment.offline:
            threading.Thread(target=self._drop_old, args=(logged,), daemon=True).start()

    def _drop_old(self, logged: wandb.Artifact) -> None:
        """Delete old versions on the server, as soon as it has the new one."""
        try:
            logged.wait(timeout=600)
            path = f"{self.experiment.entity}/{self.experiment.project}/{self.name}"
            for old in list(wandb.Api(timeout=30).artifacts("model", path))[self.keep :]:
                old.delete(delete_aliases=True)
        except Exception as error:  # the next version tries again
            say(f"Weights & Biases: old checkpoints are still there ({str(error)[:200]})")


def _link(file: Path, link: Path) -> None:
    try:
        os.link(file, link)
    except OSError:  # a file system without links
        shutil.copyfile(file, link)
