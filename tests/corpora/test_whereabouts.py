"""A mistake of an example names its file and line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from everytoken.corpora.pairs import Pairs
from everytoken.corpora.splits import SplitSource
from everytoken.corpora.tagged import TaggedWords
from everytoken.corpora.text import Text
from everytoken.corpora.whereabouts import located, whereabouts
from everytoken.errors import UserError
from support.helpers import assert_refused, run_here

WORDS = [f"word {n}" for n in range(12)]


def texts(*paths: Path, **more: Any) -> Text:
    files = [*map(str, paths)]
    settings = {"val": None, "test": None, "column": "text", "example": "line"} | more
    return Text(files, split_by="content", val_fraction=0.3, test_fraction=0, seed=1, **settings)


def line_of(file: Path, text: str) -> int:
    content = file.read_bytes()
    whole = (gzip.decompress(content) if file.suffix == ".gz" else content).decode()
    return whole.split("\n").index(text) + 1


@pytest.mark.parametrize("split", ["train", "val"])
def test_lines_of_several_files_blank_ones_counted(tmp_path: Path, split: str) -> None:
    """A share is held out, so that numbers of examples are no numbers of lines."""
    plain, packed = tmp_path / "a.txt", tmp_path / "b.txt.gz"
    plain.write_text("\n\n".join(WORDS[:5]) + "\n\n")
    with gzip.open(packed, "wt") as file:
        file.write("\n".join(WORDS[5:]))
    source = texts(plain, packed)
    found = [example["text"] for example in source.examples(split)]
    assert found
    for number, text in enumerate(found):
        file = plain if WORDS.index(text) < 5 else packed
        assert whereabouts(source, split, number) == f"{file}, line {line_of(file, text)}"
    assert not whereabouts(source, split, len(WORDS))


def test_rows_and_lines_of_two_files(tmp_path: Path) -> None:
    table, one, other = (tmp_path / name for name in ("a.csv", "a.en", "a.de"))
    table.write_text("text\na\n" + '"b\nc"\n' + "d\n")
    held_out: dict[str, Any] = {"val_fraction": 0, "test_fraction": 0}
    source: SplitSource = texts(table, val=str(table), quoted=True)
    assert whereabouts(source, "val", 2) == f"{table}, text 3"
    one.write_text("a\n\nb\n")
    other.write_text("c\n\nd\n")
    place = {"path": None, "source": str(one), "target": str(other)}
    nothing = dict.fromkeys(place)
    source = Pairs(place, nothing, nothing, seed=1, **held_out)
    assert whereabouts(source, "train", 1) == f"{source.where('train')}, line 3"


def test_a_message_names_both_and_is_left_alone_where_nobody_knows(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    rows = [{"tokens": ["a"], "tags": ["O"]}, {"tokens": ["b"], "tags": ["O"]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = TaggedWords(str(file), None, None, None, None, None, "spaces", 0, 0, 1)
    error = UserError("val and train example 1 has a mistake")
    told = f"val and train example 1 ({file}, sentence 2) has a mistake"
    assert str(located(error, source, "train")) == told
    assert located(error, object(), "train") is error
    assert located(UserError("else"), source, "train").args == ("else",)


@pytest.mark.bad_input
def test_a_command_says_where(tmp_path: Path) -> None:
    for name, labels in {"a.jsonl": "xyx", "b.jsonl": "xz", "c.jsonl": "x"}.items():
        rows = [{"text": f"{name} {n}", "label": label} for n, label in enumerate(labels)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["train", "task=sequence_classification", "data=labelled", "data.path=a.jsonl"]
    words += ["data.val_path=b.jsonl", "data.test_path=c.jsonl", "data.cache_dir=null"]
    done = run_here(tmp_path, *words, "logger=none", "trainer=cpu", "tokenizer=byte")
    assert_refused(done, "val example 1 (b.jsonl, row 2) has the label 'z'")
