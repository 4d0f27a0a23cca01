"""The commands and examples of the READMEs are true."""

import io
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from contextlib import suppress
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from everytoken.commands.train import train
from everytoken.config import check, values
from everytoken.report.compare import check_comparison
from everytoken.run.directory import Run
from everytoken.run.origin import Origin
from support.helpers import summary
from support.readmes import ALL, EVIDENCE, ROOT, block_commands, blocks, commands, read, typed

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
MARKERS = [m.partition(":")[0] for m in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
CONFIGS = {
    "train": ("train", values.check_training),
    "audit": ("train", values.check_training),
    "eval": ("eval", values.check_evaluation),
    "generate": ("generate", values.check_generation),
    "compare": ("compare", check_comparison),
}
WITH_FILES = [
    command
    for name in (".", *(f"src/everytoken/{room}" for room in ("corpora", "decoding", "hf")))
    for command in block_commands(f"{name}/README.md")
    if re.search(r"data\.\w+=\w|run=(RUN|LM)\b", command)
]
"""Commands that work on files, which are run."""


def check_command(command: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read and check a command line, as `python -m COMMAND` does before it begins its work."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    config_name, check_values = CONFIGS[command]
    read_command = check.read_command(config_name)
    if not read_command.asks:
        check.check_command(read_command, config_name, read_command.overrides, check_values)


def check_words(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that a command is one: its program, files, settings, options."""
    match words[words.index("|") + 1 :] if "|" in words else words:
        case ["python", "-m", command, *arguments] if command in CONFIGS:
            assert (ROOT / "src" / f"{command}.py").is_file()
            check_command(command, arguments, monkeypatch)
        case ["pytest", *arguments] | ["python", "-m", "pytest", *arguments]:
            paths = [a for a in arguments if a.startswith("tests")]
            assert all((ROOT / path).exists() for path in paths)
            for option, value in pairwise(arguments):
                assert option != "-m" or value.removeprefix("not ") in MARKERS
        case ["python", "-m", module, *_]:
            assert find_spec(module)
        case ["python", script, *arguments]:
            if (ROOT / EVIDENCE).exists() or not script.startswith(EVIDENCE):
                check_options(ROOT / script, arguments)
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        case ["pip", "install", *arguments]:
            for extra in re.findall(r"\[(\w+)\]", " ".join(arguments)):
                assert extra in PROJECT["project"]["optional-dependencies"]
        case [program, *_]:
            assert program in (".", "git", "pre-commit")


def check_options(script: Path, arguments: list[str]) -> None:
    """Check that a script, or what is beside it, knows the options that it is given."""
    assert script.is_file()
    code = [script, *script.parent.glob("benchmarks/*.py")]
    text = "".join(file.read_text("utf-8") for file in code)
    for option in arguments:
        assert not option.startswith("--") or f'"{option}"' in text, option


@pytest.mark.parametrize("name", ALL)
def test_every_command_is_one(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    for command in set(commands(name)) - set(WITH_FILES):
        try:
            check_words(shlex.split(command), monkeypatch)
        except Exception as error:
            raise AssertionError(f"{name} has: {command}") from error


@pytest.mark.slow
def test_what_to_type_is_a_command_of_train(monkeypatch: pytest.MonkeyPatch):
    found = typed("README.md")
    assert len(found) > 45
    for words in (["task=masked_lm", "data=pydoc"], ["model=large"], ["trainer=fsdp"]):
        assert words in found
    for words in found:
        check_command("train", words, monkeypatch)


RUN = [
    "task=causal_lm data=pydoc",
    "task=masked_lm data=pydoc",
    "model.layers=3",
    "tokenizer=bpe",
    "data.batch_tokens=4096 data.batch_size=null",
    "trainer.max_epochs=3 trainer.val_check_interval=1ep",
    "optimizer=sgd optimizer.lr=0.1 scheduler=constant",
    "metrics=top5",
    "callbacks=early_stopping",
    "callbacks=ema",
    "logger=tensorboard",
    "debug=overfit",
]
SMALLER = ["trainer.max_steps=2", "data.limit_examples=6", "trainer.val_check_interval=2"]
NARROW = ["model.width=32", "model.ffn_width=48"]


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_what_to_type_trains(tmp_path: Path, command: str):
    assert command.split() in typed("README.md")
    train_here(tmp_path / "run", command.split())
    assert summary(tmp_path / "run")["steps"] >= 2


@pytest.mark.slow
def test_a_run_without_callbacks_is_summarised_all_the_same(tmp_path: Path):
    train_here(tmp_path / "run", ["callbacks=none"])
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert summary(tmp_path / "run")["test/loss"] > 0


def train_here(path: Path, words: list[str]) -> None:
    """Train in this process: what `python -m train` does after it has read its command line."""
    named = {word.split("=")[0] for word in words}
    usual = SMALLER if "model" in named else [*SMALLER, *NARROW]
    smaller = [word for word in usual if word.split("=")[0] not in named]
    if "task" not in named:
        smaller.append("task.max_new_tokens=4")
    cfg = check.checked("train", ["logger=none", *words, *smaller], values.check_training)
    origin = {"init_from": Origin.find(cfg.init_from).record()} if cfg.init_from else {}
    Run.create(path, cfg, origin)
    torch.manual_seed(0)
    train(str(path))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that commands of the READMEs name."""
    lines = [f"line {n} of {n * 7919 % 1000} in the corpus" for n in range(200)]
    (tmp_path / "corpus.txt").write_text("\n".join(lines))
    for name, count in {"train": 200, "test": 3}.items():
        for language in ("en", "de"):
            words = (f"{language} {n} {n**3}\n" for n in range(count))
            (tmp_path / f"{name}.{language}").write_text("".join(words))
    table = "en,de\n" + "".join(f"one {n},eins {n}\n" for n in range(200))
    (tmp_path / "pairs.csv").write_text(table)
    (tmp_path / "reviews").mkdir()
    for split in ("train", "validation", "test"):
        rows = "".join(f"{split} review {n**2} was good\n" for n in range(50))
        (tmp_path / "reviews" / f"{split}.csv").write_text(f"text\n{rows}")
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_commands_with_files_run_one_after_the_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    names = iter(["LM", "RUN"])
    for command in dict.fromkeys(WITH_FILES):
        words, text = shlex.split(command), ""
        if words[0] == "echo":
            _, text, _, *words = words
        if words[1:3] == ["-m", "train"]:
            name = next(names, "another")
            shutil.rmtree(name, ignore_errors=True)
            train_here(folder / name, words[3:])
            continue
        GlobalHydra.instance().clear()
        stdin = io.BytesIO(f"{text}\n".encode())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stdin))
        if words[1] == "-m":
            monkeypatch.setattr(sys, "argv", words[2:])
            runpy.run_module(words[2], run_name="__main__")
        else:
            monkeypatch.setattr(sys, "argv", words[1:])
            with suppress(SystemExit):
                runpy.run_path(words[1], run_name="__main__")
    assert len((folder / "test.out").read_text().splitlines()) == 3
    assert len((folder / "RUN" / "eval-test-best.txt").read_text().splitlines()) >= 1
    assert (folder / "exported" / "model.safetensors").stat().st_size > 1000
    assert "error" not in capsys.readouterr().err


FIVE = re.compile(r"`(\S+)`\n\n```\w+\n(.*?)```\n\n```bash\npython -m train (.*?)```", re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "lines", "command"), FIVE.findall(read("conf/data/README.md")))
def test_files_of_five_lines_are_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, lines: str, command: str
):
    monkeypatch.chdir(tmp_path)
    Path(file).write_text(lines, encoding="utf-8")
    assert len(lines.splitlines()) - file.endswith(".csv") == 5
    train_here(tmp_path / "run", shlex.split(command.replace("\\\n", " ")))
    assert summary(tmp_path / "run")["test/loss"] > 0


def test_the_worked_example_prints_a_loss_and_an_accuracy(capsys: pytest.CaptureFixture[str]):
    [code] = blocks("README.md", "python")
    exec(code, {})
    loss, accuracy = map(float, capsys.readouterr().out.split())
    assert loss > 0
    assert (accuracy * 7) % 1 == pytest.approx(0)
