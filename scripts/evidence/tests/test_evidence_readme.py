"""scripts/evidence/README.md: each figure has a command, and each command a figure."""

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1]
TEXT = (FOLDER / "README.md").read_text("utf-8")
LM = re.findall(r"^- LM: `(.*)`$", TEXT, re.MULTILINE)[0]
COMMANDS = [
    shlex.split(f"{command} {LM if is_of_lm else ''}")
    for command, is_of_lm in re.findall(r"\| `(\w+\.py[^`]*)`( LM)? \|", TEXT)
]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("benchmark")


def test_lines_are_short():
    lines = TEXT.splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) <= 80


def test_every_command_has_a_row(benchmark: Any):
    commands = {file.name for file in FOLDER.glob("*.py") if "__main__" in file.read_text()}
    assert {command[0] for command in COMMANDS} == commands - {"forked.py"}
    assert {words[1] for words in COMMANDS if words[0] == "benchmark.py"} == {*benchmark.JOBS}


def test_commands_know_the_options_that_they_are_given(benchmark: Any):
    for script, *arguments in COMMANDS:
        if script == "benchmark.py":
            benchmark.parser().parse_args(arguments)  # exits, with what it doesn't know
        for option in (word for word in arguments if word.startswith("--")):
            assert script == "benchmark.py" or f'"{option}"' in (FOLDER / script).read_text()


def test_pictures_exist():
    pictures = re.findall(r"\]\((\S+\.png)\)", TEXT)
    assert pictures
    assert all((FOLDER / picture).is_file() for picture in pictures)
