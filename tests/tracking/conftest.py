"""Tracking is tested without what W&B would find on this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb


@pytest.fixture(autouse=True)
def no_wandb_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    wandb.teardown()  # what a test before has set up has read the environment, and is named in it
    for name in [n for n in os.environ if n.startswith(("WANDB", "HTTPS_PROXY", "https_proxy"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr("everytoken.tracking.wandb_environment._ours", {})
    yield
    wandb.teardown()
