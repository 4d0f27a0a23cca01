"""What is answered without doing anything: each key with its meaning, the version, completion."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from everytoken import __version__
from everytoken.config import help as asked
from everytoken.config.check import Command, read_command
from everytoken.config.help import UNREAD, answered, beside_keys, candidates
from everytoken.config.keys import conf_dir
from everytoken.config.literal import leaves, plain
from everytoken.entry import audit, compare, eval, generate, train
from everytoken.errors import UserError
from support.helpers import composed

JOBS = {
    "train": ("train", train.train),
    "audit": ("train", audit.audit),
    "eval": ("eval", eval.evaluate),
    "generate": ("generate", generate.generate),
    "compare": ("compare", compare.compare),
}


def answer(monkeypatch: pytest.MonkeyPatch, command: str, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", [command, *words])
    config_name, job = JOBS[command]
    text = answered(list(words), config_name, job)
    assert text is not None
    return text


def test_help_names_each_key_with_what_the_yaml_says_of_it(monkeypatch: pytest.MonkeyPatch):
    text = answer(monkeypatch, "train", "--help", "logger=[wandb,tensorboard]")
    one_line = " ".join(text.split())
    keys = [key for key, _ in leaves(plain(composed())) if not key.endswith("_target_")]
    assert [key for key in keys if f" {key}=" not in text] == []
    for told in (
        "trainer.max_steps=600 optimizer steps;",
        "logger.wandb.mode=auto auto = online if possible",
        "data.batch_size=64 or: examples of a global batch",
        "precision fp32, bf16, fp16",
    ):
        assert told in one_line
    assert max(map(len, text.splitlines())) <= asked.WIDEST


@pytest.mark.parametrize("command", JOBS)
def test_no_line_is_broken_by_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, command: str):
    monkeypatch.setattr(asked.console, "width", 80)
    lines = answer(monkeypatch, command, "--help").splitlines()
    assert [line for line in lines if len(line) > 80 and " " in line.strip()] == []


def test_help_is_that_of_what_was_typed(monkeypatch: pytest.MonkeyPatch):
    assert "Proves the invariants" in answer(monkeypatch, "audit", "--help").splitlines()[0]
    assert "scheduler.warmup_fraction=0.3" in answer(
        monkeypatch, "train", "-h", "scheduler.warmup_fraction=0.3"
    )
    assert "the run directory" in answer(monkeypatch, "eval", "--help")
    assert "Runs laid over each other" in answer(monkeypatch, "compare", "--help")


@pytest.mark.parametrize("file", sorted(conf_dir().glob("*/*.yaml")), ids=lambda file: file.stem)
def test_each_key_of_a_choice_is_found_with_its_comment(file: Path):
    text = file.read_text(encoding="utf-8")
    said = beside_keys(text, file.parent.name)
    beside = [line for line in text.splitlines() if ": " in line and " # " in line.strip()]
    beside = [line for line in beside if not line.strip().startswith(("#", "- "))]
    assert sorted(said.values()) == sorted(line.partition(" # ")[2] for line in beside)


def test_the_version_is_ours(monkeypatch: pytest.MonkeyPatch):
    for command in JOBS:
        assert answer(monkeypatch, command, "--version") == f"everytoken {__version__}"


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("logger=wa", ["wandb"]),
        ("model=ti", ["tiny"]),
        ("logger.wandb.mo", ["logger.wandb.mode="]),
        ("precision=", ["bf16", "fp16", "fp32", "fp64"]),
        ("trainer.max_", ["trainer.max_epochs=", "trainer.max_steps="]),
        ("nothing", []),
    ],
)
def test_a_word_goes_on(word: str, found: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["train"])
    assert candidates(read_command("train"), "train", word) == found


def test_bash_completes_after_what_is_printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("COMP_LINE", raising=False)
    script = answer(monkeypatch, "train", "--shell-completion", "install=bash")
    lines = (
        script,
        f'python() {{ "{sys.executable}" "$@"; }}',
        'COMP_LINE="python -m train optimizer=a"; COMP_POINT=${#COMP_LINE}',
        'COMPREPLY=(); _everytoken_complete; echo "${COMPREPLY[*]}"',
    )
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["adamw"]


@pytest.mark.parametrize("command", UNREAD)
def test_help_lists_what_a_command_reads(monkeypatch: pytest.MonkeyPatch, command: str):
    text = answer(monkeypatch, command, "--help")
    listed = [line.split()[0].partition("=")[0] for line in text.splitlines() if line[:3].strip()]
    assert [name for name in listed if name.startswith(UNREAD[command])] == []
    for name in UNREAD[command]:
        assert f"  {name} " not in text
        assert f"  {name}=" not in text
    assert "trainer.devices=" in text
    assert "precision" in text


@pytest.mark.bad_input
@pytest.mark.parametrize("key", UNREAD["eval"])
def test_a_setting_of_training_is_refused_where_nothing_reads_it(key: str):
    cfg = OmegaConf.create({"run": "nowhere", "checkpoint": "best"})
    command = Command("eval", conf_dir(), [f"{key}=1"], frozenset(), asks=False, sweeps=False)
    with pytest.raises(UserError, match=f"{key} is of training"):
        eval.evaluate(cfg, command)
