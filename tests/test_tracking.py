"""How Weights & Biases decides to stay offline."""

import os
import socket
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from everytoken.runs import Run
from everytoken.tracking import _why_offline, tensorboard_logger


@pytest.fixture
def run_of_test(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", OmegaConf.create({"name": "mine"}))


@pytest.fixture(autouse=True)
def no_wandb_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in [n for n in os.environ if n.startswith(("WANDB", "HTTPS_PROXY", "https_proxy"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_tensorboard_writes_inside_the_run_directory(run_of_test: Run):
    logger = tensorboard_logger(run_of_test)
    logger.log_metrics({"train/loss": 1.0}, step=1)
    logger.finalize("success")
    assert list((run_of_test.path / "tensorboard").glob("events*"))


def test_wandb_stays_offline_when_asked_to(monkeypatch: pytest.MonkeyPatch):
    assert _why_offline("offline") == "asked to"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert _why_offline("auto") == "asked to"


def test_wandb_stays_offline_without_a_key():
    assert "wandb login" in str(_why_offline("auto"))


@pytest.mark.parametrize("where", ["environment", "netrc"])
def test_wandb_goes_online_with_a_key_and_a_server_that_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        if where == "environment":
            monkeypatch.setenv("WANDB_API_KEY", "secret")
        else:
            (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
        assert _why_offline("auto") is None
    reason = _why_offline("auto")  # the server is gone
    assert reason is not None
    assert "127.0.0.1 can't be reached" in reason
    assert "secret" not in reason


def test_a_proxy_is_trusted_to_know_the_way(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:8")
    assert _why_offline("auto") is None
