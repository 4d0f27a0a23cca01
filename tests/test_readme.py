"""What the README says is true: its commands run, its examples work."""

import contextlib
import io
import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from everytoken.audit.report import CHECKS
from everytoken.config.keys import conf_dir
from support.helpers import run, summary

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = {
    name: text
    for language, text in re.findall(r"```(python|yaml)\n(.*?)```", README, re.DOTALL)
    for name in [text.split(",")[0].splitlines()[0].removeprefix("# ")]
}
SMALLER = [
    "trainer.max_steps=2",
    "data.limit_examples=12",
    "trainer.val_check_interval=2",
]


def commands() -> list[str]:
    """Each `python -m train …` of the table, with each of the choices that follow it."""
    table = README.split("## Change X by typing Y")[1].split("\n##")[0]
    found = []
    for line in table.splitlines():
        spans = re.findall(r"`([^`]+)`", line)
        command = ""
        for span in spans:
            if span.startswith("python -m train"):
                command = span.removeprefix("python -m train ")
                found.append(command)
            elif command and "=" in span and " " not in span.split("=")[0]:
                found.append(span)
            elif command and re.fullmatch(r"[a-z_]+", span):
                found.append(re.sub(r"=[^= ]+$", f"={span}", command))
    return found


def test_the_table_was_read_right():
    found = commands()
    assert len(found) > 30
    for word in ("task=masked_lm data=pydoc", "model=large", "trainer=fsdp", "debug=overfit"):
        assert word in found


@pytest.mark.slow
def test_every_command_of_the_table_is_a_command(tmp_path: Path):
    from hydra import compose, initialize_config_dir

    from everytoken.config.values import check_training

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for command in commands():
            words = [w for w in command.split() if not w.startswith(("--", "hydra.", "seed="))]
            check_training(compose("train", words))


RUN = [
    "task=causal_lm data=pydoc",
    "task=masked_lm data=pydoc",
    "model.layers=3",
    "tokenizer=bpe",
    "data.batch_tokens=4096 data.batch_size=null",
    "trainer.max_epochs=3 trainer.max_steps=null",
    "optimizer=sgd optimizer.lr=0.1 scheduler=constant",
    "metrics=top5",
    "callbacks=early_stopping",
    "callbacks=ema",
    "logger=tensorboard",
    "debug=overfit",
]


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_commands_of_the_table_train(tmp_path: Path, command: str):
    assert any(command in known for known in commands())
    train_here(tmp_path / "run", command.split())
    assert summary(tmp_path / "run")["steps"] >= 2


@pytest.mark.slow
def test_a_run_without_callbacks_is_summarised_all_the_same(tmp_path: Path):
    train_here(tmp_path / "run", ["callbacks=none"])
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert summary(tmp_path / "run")["test/loss"] > 0


def train_here(path: Path, words: list[str]) -> None:
    """Train in this process: what `python -m train` does after it has read its command line."""
    from hydra import compose, initialize_config_dir

    from everytoken.commands.train import train
    from everytoken.config.values import check_training
    from everytoken.run.directory import Run

    named = {word.split("=")[0] for word in words}
    smaller = [word for word in SMALLER if word.split("=")[0] not in named]
    if "task" not in named:
        smaller.append("task.max_new_tokens=4")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", ["logger=none", *words, *smaller])
    check_training(cfg)
    Run.create(path, cfg)
    torch.manual_seed(0)
    train(str(path))


WITH_FILES = re.findall(
    r"```bash\n(.*?)```",
    README.split("## Your texts")[1].split("## Why the loss must be divided once")[0],
    re.DOTALL,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that commands of the README name."""
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
    for line in "".join(WITH_FILES).splitlines():
        typed, _, command = line.rpartition(" | ")
        _, *words = shlex.split(command)
        if words[:2] == ["-m", "train"]:
            name = next(names, "another")
            shutil.rmtree(name, ignore_errors=True)
            train_here(folder / name, words[2:])
            continue
        GlobalHydra.instance().clear()
        text = " ".join(shlex.split(typed)[1:]) + "\n"
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        if words[0] == "-m":
            monkeypatch.setattr(sys, "argv", words[1:])
            runpy.run_module(words[1], run_name="__main__")
        else:
            monkeypatch.setattr(sys, "argv", words)
            with contextlib.suppress(SystemExit):
                runpy.run_path(words[0], run_name="__main__")
    assert len((folder / "test.out").read_text().splitlines()) == 3
    assert len((folder / "RUN" / "eval-test-best.txt").read_text().splitlines()) >= 1
    assert (folder / "exported" / "model.safetensors").stat().st_size > 1000
    assert "error" not in capsys.readouterr().err


def test_the_worked_example_prints_a_loss_and_an_accuracy(capsys: pytest.CaptureFixture[str]):
    exec(CODE["import torch"], {})
    loss, accuracy = map(float, capsys.readouterr().out.split())
    assert loss > 0
    assert (accuracy * 7) % 1 == pytest.approx(0)


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules and YAMLs of the README, outside the package; options that find them."""
    conf = tmp_path / "conf"
    for name, text in CODE.items():
        if name.startswith(("src/everytoken/", "conf/")):
            place = tmp_path / name.replace("src/everytoken/", "modules/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(re.sub(r"everytoken\.(?=backwards|lstm|surprise)", "", text))
    assert len(list(conf.rglob("*.yaml"))) == 3
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'modules'}:{ROOT / 'src'}")
    return ["--config-dir", str(conf), "hydra.run.dir=run", "logger=none"]


@pytest.mark.slow
def test_ones_own_data_model_and_metric_train(tmp_path: Path, examples: list[str]):
    done = run(tmp_path, "train", *examples, "data=backwards", "metrics=surprise", *SMALLER)
    assert done.returncode == 0, done.stderr
    assert summary(tmp_path / "run")["test/worst_loss"] > 0
    shutil.rmtree(tmp_path / "run")
    words = ["task=causal_lm", "data=pydoc", "model=lstm", *SMALLER]
    done = run(tmp_path, "train", *examples, *words)
    assert done.returncode == 0, done.stderr
    assert 0 < summary(tmp_path / "run")["throughput/fill"] <= 1


@pytest.mark.slow
def test_ones_own_model_passes_the_audit(tmp_path: Path, examples: list[str]):
    words = ["task=causal_lm", "data=pydoc", "model=lstm", "task.objective.window_tokens=40"]
    done = run(tmp_path, "audit", *examples, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all checks pass" in done.stdout
    assert "padding side doesn't apply: the model refuses it: " in done.stdout
    record = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert record["passed"]
    assert [check["check"] for check in record["checks"]] == [check.name for check in CHECKS]


def test_files_that_the_readme_names_exist():
    named = re.findall(r"`((?:src|conf|scripts|tests|\.github)/[\w./-]*)`", README)
    rows = README.split("## Where things are")[1]
    named += [f"src/everytoken/{name}" for name in re.findall(r"`((?!src/)[\w/]+\.py)`", rows)]
    for name in set(named):
        bare = name.removeprefix("src/everytoken/")
        assert (ROOT / name).exists() or (ROOT / "src" / bare).exists(), name
    package = ROOT / "src" / "everytoken"
    modules = {str(p.relative_to(package)) for p in package.rglob("*.py")}
    modules = {name for name in modules if not name.endswith("__init__.py")}
    assert modules <= set(re.findall(r"`([\w/]+\.py)`", rows)), "a module is missing in the table"


def test_pictures_exist():
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).is_file(), picture


def test_python_is_new_enough():
    assert sys.version_info >= (3, 11)
