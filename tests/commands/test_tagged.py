"""A model that tags the words of one's own file: trained, evaluated, asked, exported."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from everytoken.commands.export import export
from support.helpers import assert_refused, run_here

pytestmark = pytest.mark.slow

NAMES, PLACES = ["Ann", "Bob", "Tim Lee"], ["Oslo", "New York", "Rome"]
SMALL = [
    *("task=token_classification", "data=tagged", "logger=none", "data.cache_dir=null"),
    *("model.width=32", "model.ffn_width=48", "model.layers=1", "optimizer.lr=0.02"),
    *("trainer.max_steps=30", "trainer.val_check_interval=15", "callbacks.machine_use=null"),
    *("data.batch_tokens=null", "data.batch_size=16", "tokenizer=bpe"),
    *("tokenizer.vocabulary_size=280", "callbacks.best_checkpoint.monitor=val/f1"),
]


def parts(text: str, kind: str) -> list[str]:
    return [f"{word} {'I' if i else 'B'}-{kind}" for i, word in enumerate(text.split())]


def sentences(count: int) -> str:
    rows = [
        [*parts(NAMES[i % 3], "PER"), "is O", "in O", *parts(PLACES[i // 3 % 3], "LOC"), f"{i} O"]
        for i in range(count)
    ]
    return "\n\n".join("\n".join(row) for row in rows) + "\n"


def test_own_columns_go_through_all_commands(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(sentences(90))
    own = ["data.path=a.conll", "hydra.run.dir=run"]
    done = run_here(tmp_path, "train", *SMALL, *own)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert run_here(tmp_path, "eval", "run=run", "split=test").returncode == 0
    found = json.loads((tmp_path / "run" / "eval-test-best.json").read_text())
    for name in ("f1", "f1/PER", "recall/LOC", "accuracy"):
        assert found[f"test/{name}"] == summary[f"test/{name}"]
    lines = ["Ann is in New York.", "Tim Lee is in Rome 7"]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n")
    asked = ["run=run", "input=lines.txt", "output=told.txt"]
    assert run_here(tmp_path, "generate", *asked).returncode == 0
    told = (tmp_path / "told.txt").read_text().split("\n")[:-1]
    words = [[word.rpartition("/") for word in line.split()] for line in told]
    assert [[text for text, *_ in row] for row in words] == [
        ["Ann", "is", "in", "New", "York", "."],
        ["Tim", "Lee", "is", "in", "Rome", "7"],
    ]
    export(tmp_path / "run", tmp_path / "out", "best")
    tagger: Any = transformers.pipeline(
        "token-classification", str(tmp_path / "out"), ignore_labels=[]
    )
    for row in words:
        read, place = tagger(" ".join(text for text, *_ in row)), 0
        for text, _, tag in row:
            assert next(one["entity"] for one in read if one["end"] > place) == tag
            place += len(text) + 1


SPANS = '{{"text": "Ann is in Rome", "spans": [[0, 3, "PER"], [{}, "LOC"]]}}\n'


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "text", "val", "told"),
    [
        ("a.conll", "Ann B-PER\nis\n", None, ["a.conll, line 2", "each word needs its tag"]),
        ("a.jsonl", SPANS.format("2, 6"), None, ["line 1", "'n is' (2 to 6, LOC) overlaps 'Ann'"]),
        ("a.jsonl", SPANS.format("10, 12"), None, ["line 1", "'Ro' (10 to 12, LOC) cuts the word"]),
        (
            *("a.conll", sentences(60), "Ann B-PER\nmet O\nX B-ORG\n"),
            ["val example 0", "word 3, 'X'", "'B-ORG', and training has none such"],
        ),
    ],
)
def test_lines_that_make_no_sense_are_told_with_their_place(
    tmp_path: Path, name: str, text: str, val: str | None, told: list[str]
) -> None:
    (tmp_path / name).write_text(text)
    words = [f"data.path={name}", "hydra.run.dir=run"]
    if val is not None:
        (tmp_path / "val.conll").write_text(val)
        words.append("data.val_path=val.conll")
    assert_refused(run_here(tmp_path, "train", *SMALL, *words), *told)


def test_a_tag_that_is_there_once_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(sentences(60) + "\nEve B-ODD\nis O\n")
    words = ["data.path=a.conll", "hydra.run.dir=run", "trainer.max_steps=2"]
    done = run_here(tmp_path, "train", *SMALL, *words, "trainer.val_check_interval=2")
    assert done.returncode == 0, done.stderr
    assert "of the 6 labels 1 stand only once in train (B-ODD)" in done.stdout + done.stderr
