"""Who a run is."""

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from everytoken.run import identity as module
from everytoken.run.identity import git_commit, identity


def test_runs_of_one_config_are_told_apart(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    monkeypatch.setenv("WANDB_RUN_ID", "left over from somewhere")
    first, second = identity("mine"), identity("mine")
    assert first["name"] == second["name"] == "mine"
    assert first["id"] != second["id"]
    assert len(first["id"]) == 8
    assert first["versions"]["torch"] == version("torch")


def test_in_a_sweep_of_wandb_its_agent_names_the_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "agents-choice")
    assert identity("mine")["id"] == "agents-choice"


def test_the_commit_says_whether_files_differ_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    file = tmp_path / "identity.py"
    file.write_text("")
    monkeypatch.setattr(module, "__file__", str(file))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() is None
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    assert git_commit() == git("rev-parse", "HEAD")
    (tmp_path / "new.txt").write_text("untracked files don't count")
    assert git_commit() == git("rev-parse", "HEAD")
    file.write_text("changed")
    assert git_commit() == git("rev-parse", "HEAD") + "+changes"
