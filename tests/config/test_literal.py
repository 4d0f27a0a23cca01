"""What is printed is read back as it was meant, by the shell and by Hydra."""

import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from everytoken.config.literal import shown_command
from everytoken.config.words import understood, unreadable

NASTY = [
    *(
        "a b",
        "it's",
        '"a"',
        "$HOME",
        "`ls`",
        "~",
        "~/x",
        "-x",
        "a,b",
        "a=b",
        "[a]",
        "{a: 1}",
        "(a)",
    ),
    *(
        "a\\",
        "a\\'b",
        "a!b",
        "#a",
        "a;b",
        "a&b|c",
        "1_000",
        "null",
        "true",
        "1e3",
        "${x}",
        "é",
        "日本",
    ),
    *(
        "a\nb",
        "a\tb",
        "*",
        "?",
        "2026-01-01/10-00-00-seq2seq",
        "a:b",
        "@a",
        "%s",
        "a\N{NO-BREAK SPACE}b",
    ),
]


def pasted(command: str) -> list[str]:
    """The words of a command as a shell reads them."""
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


def test_a_command_is_read_as_it_was_meant():
    command = shown_command(
        "python x.py", *map(Path, NASTY), **{f"k{i}": v for i, v in enumerate(NASTY)}
    )
    assert "\n" not in command
    words = pasted(command)[2:]
    files, overrides = words[: len(NASTY)], words[len(NASTY) :]
    assert [Path(file) for file in files] == [Path(name) for name in NASTY]
    assert not any(file.startswith("-") for file in files)
    read = OverridesParser.create().parse_overrides(overrides)
    assert [override.value() for override in read] == NASTY


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("data.path=it's a b.txt", "it's a b.txt"),
        ("data.path=~/x", str(Path("~/x").expanduser())),
        ("data.path=a#b(1).txt", "a#b(1).txt"),
        ("name=a b", "a b"),
    ],
)
def test_a_text_needs_no_quotes_that_only_the_grammar_wants(typed: str, meant: str):
    (word,) = understood([typed], takes_runs=False)
    (override,) = OverridesParser.create().parse_overrides([word])
    assert override.value() == meant


@pytest.mark.parametrize(
    "typed", ["seed=1,2", "x=[1", "x='a", "x=${y", "a=range(1,3)", "~x", "seed"]
)
def test_what_has_a_meaning_to_the_grammar_stays(typed: str):
    assert understood([typed], takes_runs=False) == [typed]


def test_a_folder_alone_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a b", "c"):
        (tmp_path / name).mkdir()
    assert understood(["c", "split=val"], takes_runs=True) == ["run=c", "split=val"]
    assert understood(["a b", "c"], takes_runs=True) == ["run=['a b',c]"]
    assert understood(["c"], takes_runs=False) == ["c"]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("model.small", "did you mean model=small?"),
        ("/tmp", "is it run=/tmp?"),
        ("x=[1", "close its brackets"),
        ("=", "can't read '='"),
    ],
)
def test_what_cannot_be_read_says_what_to_type(typed: str, answer: str):
    assert answer in unreadable(typed, "eval")
    assert "Exception" not in unreadable(typed, "eval")
