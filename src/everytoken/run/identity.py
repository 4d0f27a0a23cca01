"""Who a run is: an id of its own, and the code that it comes from."""

import os
import platform
import secrets
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from everytoken import __version__

ENGINE = __name__.partition(".")[0]

PACKAGES = ("torch", "lightning", "torchmetrics", "hydra-core", "wandb", "tokenizers")


def identity(name: str) -> dict[str, Any]:
    """Who a new run is and where it comes from."""
    return {
        "id": _sweep_run_id() or secrets.token_hex(4),
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "versions": {ENGINE: __version__, **{name: _version(name) for name in PACKAGES}},
    }


def _sweep_run_id() -> str | None:
    """The id that the agent of a W&B sweep has given to this run."""
    return os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None


def git_commit() -> str | None:
    """The commit of the code that runs, "+changes" if files differ from it; None outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        changes = "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + changes
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
