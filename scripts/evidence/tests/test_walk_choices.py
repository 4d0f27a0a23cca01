"""A walk finds what it is to find, in small."""

import json
from pathlib import Path

import pytest

from forked import ROOT, Outcome, call
from support import prefork
from walk_choices import choices, keys_of, other_values, overrides


def outcome(code: int | None, err: str = "", out: str = "") -> Outcome:
    return Outcome(("train",), code, out, err, 1.0)


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (outcome(0), None),
        (outcome(0, err="warning: slow\n"), None),
        (outcome(2, err="warning: slow\nerror: give another\n"), None),
        (outcome(2), "exit code 2 with 0 lines"),
        (outcome(2, err="error: one\nerror: two\n"), "exit code 2 with 2 lines"),
        (outcome(1, err="error: unforeseen\n"), "exit code 1: error: unforeseen"),
        (outcome(0, out="Traceback (most recent call last):\nKeyError: 1\n"), "KeyError: 1"),
        (outcome(None), "not done after 1 s"),
    ],
)
def test_what_a_user_must_never_meet(found: Outcome, fault: str | None) -> None:
    assert found.fault is None if fault is None else fault in str(found.fault)


def test_a_fork_runs_a_command_and_a_script_and_is_killed_in_time(tmp_path: Path) -> None:
    assert call(("train", "modle=small"), tmp_path, 60).code == 2
    described = call(("scripts/export_hf.py", "--what", "job"), tmp_path, 60)
    assert described.code == 2
    assert described.fault is None
    slow = ("train", "logger=none", "trainer.max_steps=100000", f"hydra.run.dir={tmp_path}/run")
    assert call(slow, tmp_path, 3).code is None


def test_every_choice_is_walked_with_each_of_its_keys() -> None:
    walked = {*choices()}
    assert {
        ("model", "tiny"),
        ("task", "masked_lm"),
        ("logger", "none"),
        ("debug", "fast"),
    } < walked
    assert ("optimizer.betas", [0.9, 0.98]) in keys_of("optimizer", "adamw")
    assert ("data.source", "source") in keys_of("data", "hub")
    assert all(str(value) not in other_values(value) for value in (True, 3, 0.5, "text", None))
    assert "optimizer.lr=5" in overrides("optimizer", "adamw", ("optimizer.lr=5",))


@pytest.mark.slow
def test_a_walk_over_a_few_choices(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    command = ["-W", "ignore", "scripts/evidence/walk_choices.py"]
    command += [str(tmp_path / "out"), "--choices", "--only", "model=hf"]
    done = prefork.run(ROOT, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (tmp_path / "out" / "outcomes.jsonl").read_text().splitlines()
    commands = [json.loads(line)["words"][0] for line in lines]
    assert commands == ["train", "eval", "generate", "train", "scripts/export_hf.py"]
