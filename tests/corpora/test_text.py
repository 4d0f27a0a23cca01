"""Texts from files of any kind, as examples of a split."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from everytoken.corpora import files, long_text
from everytoken.corpora.long_text import LongText
from everytoken.corpora.splits import LEAKED, SPLITS
from everytoken.corpora.text import Text
from everytoken.errors import UserError
from support.corpus_files import write, write_table

SETTINGS: dict[str, Any] = {
    "val": None,
    "test": None,
    "column": "text",
    "example": "line",
    "split_by": "content",
    "val_fraction": 0.1,
    "test_fraction": 0.1,
    "seed": 1,
}
NUMBERS = [f"number {n}" for n in range(300)]


def source(train: Any, **changed: Any) -> Text:
    return Text(str(train) if isinstance(train, Path) else train, **SETTINGS | changed)


def texts(corpus: Text, split: str) -> list[str]:
    return [example["text"] for example in corpus.examples(split)]


def whole(corpus: Text) -> list[str]:
    return sorted(text for split in SPLITS for text in texts(corpus, split))


def test_files_of_all_kinds_together(tmp_path: Path) -> None:
    for number, kind in enumerate((".jsonl", ".csv", ".tsv.gz", ".parquet")):
        rows = NUMBERS[number * 50 : number * 50 + 50]
        write_table(tmp_path / f"a{kind}", {"id": rows, "text": rows})
    write(tmp_path / "a.txt", "\r\n\n".join(NUMBERS[200:250]))
    write(tmp_path / "a.txt.gz", "\n".join(NUMBERS[250:]))
    assert whole(source(tmp_path)) == sorted(NUMBERS)
    assert whole(source([str(tmp_path / "a.txt"), str(tmp_path / "*.txt.gz")])) == NUMBERS[200:]


def test_the_column_is_a_setting(tmp_path: Path) -> None:
    rows = {"text": NUMBERS, "body": [text.upper() for text in NUMBERS]}
    file = write_table(tmp_path / "a.parquet", rows)
    assert whole(source(file, column="body")) == sorted(rows["body"])


def test_a_file_may_be_an_example(tmp_path: Path) -> None:
    for number in range(40):
        write(tmp_path / f"{number}.txt", f"first {number}\n\nlast\n")
    found = whole(source(tmp_path, example="file"))
    assert found == sorted(f"first {number}\n\nlast\n" for number in range(40))


def test_by_position_a_text_is_cut_in_three(tmp_path: Path) -> None:
    text = "".join(f"word {n} " for n in range(1000))
    file = write(tmp_path / "a.txt", text)
    corpus = source(file, example="file", split_by="position", test_fraction=0.05)
    [train], [val], [test] = (texts(corpus, split) for split in SPLITS)
    assert train + val + test == text
    assert len(train) == int(0.85 * len(text))
    assert len(test) == pytest.approx(0.05 * len(text), abs=1)


def test_by_position_validation_is_the_end_where_there_is_a_test_file(tmp_path: Path) -> None:
    """As nanoGPT does: `data[int(n * 0.9):]`."""
    text = "x" * 9000 + "y" * 1000
    file, test = write(tmp_path / "a.txt", text), write(tmp_path / "b.txt", "z")
    corpus = source(file, test=str(test), example="file", split_by="position")
    assert texts(corpus, "train") == ["x" * 9000]
    assert texts(corpus, "val") == ["y" * 1000]
    assert texts(corpus, "test") == ["z"]


@pytest.mark.bad_input
def test_by_position_lines_are_not_cut(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "one\ntwo\n")
    with pytest.raises(UserError, match=r"data\.split_by=position .* set data\.example=file"):
        source(file, split_by="position")


def test_splits_may_have_files_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", "one\ntwo\nthree\n")
    write_table(tmp_path / "val.csv", {"text": ["two", "four"]})
    write(tmp_path / "test.jsonl", '{"text": "four"}')
    own = {name: str(tmp_path / f"{name}.*") for name in SPLITS}
    corpus = source(own["train"], val=own["val"], test=own["test"])
    assert [texts(corpus, split) for split in SPLITS] == [["one", "three"], ["two"], ["four"]]
    assert corpus.dropped == {"train": {LEAKED: 1}, "val": {LEAKED: 1}, "test": {}}


def test_a_long_line_is_one_example(tmp_path: Path) -> None:
    line = "word " * 2_000_000
    file = write(tmp_path / "a.txt", f"{line}\n")
    assert texts(source(file, val=str(file), test=str(file)), "test") == [line]


def test_the_fingerprint_changes_with_each_file(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.txt", name) for name in SPLITS]
    corpus = source(str(files[0]), val=str(files[1]), test=str(files[2]))
    seen = {corpus.fingerprint()}
    assert seen == {corpus.fingerprint()}
    for number, file in enumerate(files):
        os.utime(file, ns=(0, number))
        seen.add(corpus.fingerprint())
    assert len(seen) == 4
    write(tmp_path / "more.txt", "more")
    assert source(tmp_path).fingerprint() not in seen


@pytest.mark.bad_input
@pytest.mark.parametrize("content", ["", "\n \n\t\n", "\ufeff\n"])
@pytest.mark.parametrize("example", ["line", "file"])
def test_files_without_text(tmp_path: Path, content: str, example: str) -> None:
    file = write(tmp_path / "a.txt", content)
    for split in SPLITS:
        with pytest.raises(UserError, match=rf"the {split} split is empty: {file} has no example"):
            texts(source(file, example=example), split)


@pytest.mark.bad_input
def test_one_document_asks_for_another_way_to_split(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "one document\nof two lines\n")
    corpus = source(file, example="file", val_fraction=1e-9, test_fraction=0)
    with pytest.raises(UserError, match=r"none of the 1 examples .*split_by=position.*val_path"):
        texts(corpus, "val")


@pytest.mark.bad_input
def test_choices_are_named() -> None:
    with pytest.raises(UserError, match=r"data\.example must be line or file, got 'word'"):
        source("a.txt", example="word")
    with pytest.raises(UserError, match=r"data\.split_by must be content or position"):
        source("a.txt", split_by="chance")
    with pytest.raises(UserError, match="no training examples"):
        source(None)


@pytest.mark.parametrize("split_by", ["content", "position"])
def test_a_file_larger_than_memory_is_the_same_text(
    tmp_path: Path, split_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows's line ends, a mark at its begin, a line that is long too, none at its end."""
    for number in range(8):
        body = "\r\n".join(f"{number} zwölf 🦊\r x{n}" for n in range(90)) + "é" * 999
        (tmp_path / f"{number}.txt").write_bytes(b"\xef\xbb\xbf" + body.encode())

    def found(split: str) -> list[str]:
        read = source(tmp_path, example="file", split_by=split_by, val_fraction=0.3).examples(split)
        texts: list[Any] = [example["text"] for example in read]
        long = [text for text in texts if isinstance(text, LongText)]
        assert bool(long) == (files.LONG_CHARACTERS == 100)
        for text in long:
            content = "".join(text.blocks())
            assert (len(text), text.extent.size) == (len(content), len(content.encode()))
        return ["".join(t.blocks()) if isinstance(t, LongText) else t for t in texts]

    splits = ("train", "val")
    right = [found(split) for split in splits]
    for name, value in {"LONG_CHARACTERS": 100, "BLOCK_CHARACTERS": 64}.items():
        monkeypatch.setattr(files, name, value)
    monkeypatch.setattr(long_text, "LONG_CHARACTERS", 100)
    assert [found(split) for split in splits] == right


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a\n" + b"b" * 300 + b"\xff", "line 2: byte 301 of the line (0xff) isn't UTF-8"),
        (b"a\rb" * 200, "its line ends are carriage returns only"),
        (b"a\n\n" + b"b" * 200 + b"\0", "line 3: NUL at character "),
    ],
)
def test_what_is_wrong_deep_in_a_large_file_is_told(
    tmp_path: Path, content: bytes, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BLOCK_CHARACTERS", 64)
    monkeypatch.setattr(files, "LONG_CHARACTERS", 100)
    (tmp_path / "a.txt").write_bytes(content)
    corpus = source(tmp_path / "a.txt", example="file", split_by="position")
    with pytest.raises(UserError, match=re.escape(told)):
        texts(corpus, "train")
