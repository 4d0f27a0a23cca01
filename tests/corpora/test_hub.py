"""Datasets of the hub, from folders laid out as its repositories are."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from huggingface_hub import constants

from everytoken.corpora.hub import Hub
from everytoken.corpora.splits import LEAKED, SPLITS
from everytoken.errors import UserError
from support.corpus_files import write, write_table
from support.hub_server import hub_server

SETTINGS: dict[str, Any] = {
    "config": None,
    "train": "train",
    "val": "validation",
    "test": "test",
    "columns": {"text": "text", "source": "translation.en", "target": "translation.de"},
    "fields": ["text"],
    "val_fraction": 0.2,
    "test_fraction": 0.2,
    "seed": 1,
}
ROWS = {
    **{"form": None, "word": None, "tag": None, "split": "punctuation", "names": None},
    **{"second": None, "label": "label", "label_separator": None, "most_classes": 1000},
}


def hub(folder: Path, **changed: Any) -> Hub:
    return Hub(str(folder), **SETTINGS | changed)


def texts(source: Hub, split: str) -> list[str]:
    return [example["text"] for example in source.examples(split)]


def refused(folder: Path | str, *words: str, **changed: Any) -> None:
    with pytest.raises(UserError) as error:
        list(hub(Path(folder), **changed).examples("train"))
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three splits, in files as `push_to_hub` names them."""
    (tmp_path / "data").mkdir()
    rows = {"train": ["a", "b", "c"], "validation": ["c", "d"], "test": ["e"]}
    for name, values in rows.items():
        file = tmp_path / "data" / f"{name}-00000-of-00001.parquet"
        write_table(file, {"id": values, "text": values})
    return tmp_path


def test_splits_are_those_of_the_dataset(folder: Path) -> None:
    source = hub(folder)
    assert source.fields == ("text",)
    assert [texts(source, split) for split in SPLITS] == [["a", "b"], ["c", "d"], ["e"]]
    assert source.dropped["train"] == {LEAKED: 1}


def test_a_split_may_be_a_share_of_training(tmp_path: Path) -> None:
    numbers = [f"number {n}" for n in range(2500)]
    write_table(tmp_path / "train.csv", {"text": numbers})
    source = hub(tmp_path, val=None, test=None)
    found = [texts(source, split) for split in SPLITS]
    assert sorted(chain(*found)) == sorted(numbers)
    assert [len(part) / 2500 for part in found] == pytest.approx([0.6, 0.2, 0.2], abs=0.03)


def test_pairs_may_be_inside_a_column(tmp_path: Path) -> None:
    for name in ("train", "test"):
        row = {"id": 1, "translation": {"de": f"ja {name}", "en": f"yes {name}"}}
        write(tmp_path / f"{name}.jsonl", json.dumps(row))
    source = hub(tmp_path, fields=["source", "target"], val=None)
    assert list(source.examples("test")) == [{"source": "yes test", "target": "ja test"}]


def test_the_fingerprint_changes_with_the_data(folder: Path) -> None:
    before = hub(folder).fingerprint()
    assert hub(folder).fingerprint() == before
    write_table(folder / "data" / "test-00000-of-00001.parquet", {"id": ["f"], "text": ["f"]})
    assert hub(folder).fingerprint() != before


def test_rows_of_kinds_that_only_datasets_reads(tmp_path: Path) -> None:
    texts = ["0007", "10.50", "NA"]
    typed = Dataset.from_dict({"text": texts, "number": [7, 10, 0]})
    typed.save_to_disk(tmp_path / "saved")
    shutil.copy(next((tmp_path / "saved").glob("*.arrow")), tmp_path / "train.arrow")
    shutil.rmtree(tmp_path / "saved")
    alone = {"val": None, "test": None, "val_fraction": 0, "test_fraction": 0}
    source = hub(tmp_path, **alone)
    assert [example["text"] for example in source.examples("train")] == texts
    assert source.fingerprint() == hub(tmp_path, **alone).fingerprint()
    number = {"columns": {"text": "number"}}
    refused(tmp_path, "split train", "row 1", "no text but int", **number, **alone)
    refused(tmp_path, "has no column 'body'; it has 'text'", columns={"text": "body"}, **alone)


CLASSES = ["O", "B-X", "I-X"]
TYPED = Features(
    {
        "tokens": List(Value("string")),
        "ner_tags": List(ClassLabel(names=CLASSES)),
        "text": Value("string"),
        "label": ClassLabel(names=["bad", "good"]),
        "several": List(ClassLabel(names=["red", "blue"])),
        "messages": List({"role": Value("string"), "content": Value("string")}),
    }
)
SAID = [{"role": "user", "content": "yes?"}, {"role": "assistant", "content": "no"}]
ROW = {
    **{"tokens": ["a", "b", "c"], "ner_tags": [1, 2, 0], "text": "fine", "label": 1},
    **{"several": [1, 0], "messages": SAID},
}
ALONE = {"val": None, "test": None, "val_fraction": 0, "test_fraction": 0}


def as_parquet(folder: Path) -> None:
    Dataset.from_list([ROW], features=TYPED).to_parquet(folder / "train.parquet")


def as_arrow(folder: Path) -> None:
    DatasetDict({"train": Dataset.from_list([ROW], features=TYPED)}).save_to_disk(folder)


def as_json(folder: Path) -> None:
    """Names of classes are in the README.md."""
    write(folder / "train.jsonl", json.dumps(ROW))
    lists = [("ner_tags", CLASSES), ("several", ["red", "blue"])]
    features = [
        {"name": "label", "dtype": {"class_label": {"names": {"0": "bad", "1": "good"}}}},
        *(
            {"name": name, "sequence": {"class_label": {"names": dict(enumerate(classes))}}}
            for name, classes in lists
        ),
        *({"name": name, "dtype": "string"} for name in ("text", "tokens", "messages")),
    ]
    head = json.dumps({"dataset_info": {"features": features}})
    write(folder / "README.md", f"---\n{head}\n---\n")


@pytest.mark.parametrize("stored", [as_parquet, as_arrow, as_json])
def test_rows_are_read_as_the_task_needs_them(
    tmp_path: Path, stored: Callable[[Path], None]
) -> None:
    stored(tmp_path)

    def only(*fields: str, **changed: Any) -> dict[str, Any]:
        source = hub(tmp_path, fields=[*fields], rows=ROWS | changed, **ALONE)
        (example,) = source.examples("train")
        assert (*example,) == source.fields
        return {k: v if k in ("text", "second") else json.loads(v) for k, v in example.items()}

    assert only("messages") == {"messages": SAID}
    tags = {"words": ["a", "b", "c"], "tags": ["B-X", "I-X", "O"]}
    assert only("words", "tags") == tags
    assert only("words", "tags", names=["0", "1", "2"])["tags"] == ["1", "2", "0"]
    assert only("text", "labels") == {"text": "fine", "labels": ["good"]}
    two = only("text", "labels", second="text", label="several")
    assert two == {"text": "fine", "second": "fine", "labels": ["blue", "red"]}


def test_the_first_example_of_each_class_is_trained_on(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": "rare" if n == 7 else "usual"} for n in range(50)]
    write(tmp_path / "train.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    for seed in range(4):
        shares = {"val": None, "test": None, "val_fraction": 0.4, "test_fraction": 0.4}
        source = hub(tmp_path, fields=["text", "labels"], rows=ROWS, seed=seed, **shares)
        assert '["rare"]' in [example["labels"] for example in source.examples("train")]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("fields", "changed", "words"),
    [
        (["text"], {"text": None}, "data.text must name a column, got None"),
        (["text", "labels"], {"label": None}, "data.label must name a column, got None"),
        (["text", "labels"], {"most_classes": None}, "data.most_classes must be"),
        (["text", "labels"], {"names": 1}, "data.names must be a list of names"),
        (["words", "tags"], {"names": "O"}, "data.names must be a list of names"),
        (["words", "tags"], {"split": "sign"}, "data.split must be punctuation, spaces or"),
        (["messages"], {"form": "chat"}, "data.form must be one of messages, conversations"),
    ],
)
def test_settings_that_name_nothing(
    folder: Path, fields: list[str], changed: dict[str, Any], words: str
) -> None:
    columns = {"columns": SETTINGS["columns"] | changed} if "text" in changed else {}
    refused(folder, words, fields=fields, rows=ROWS | changed, **columns)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("fields", "row", "words"),
    [
        (["messages"], {"text": "a"}, "line 1: no conversation in the columns 'text'"),
        (["messages"], {"messages": []}, "line 1: has no messages"),
        (["words", "tags"], {"tokens": ["a"], "labels": [0]}, "no columns tokens/words and tags"),
        (["words", "tags"], {"tokens": ["a"], "tags": [0]}, "is a number (0): name them all"),
        (["text", "labels"], {"text": "a"}, "line 1: no column 'label'; there is 'text'"),
        (["text", "labels"], {"text": "a", "label": 0.5}, "give a word or a whole number"),
    ],
)
def test_rows_that_the_task_can_not_read(
    tmp_path: Path, fields: list[str], row: dict[str, Any], words: str
) -> None:
    write(tmp_path / "train.jsonl", json.dumps(row))
    refused(tmp_path, words, fields=fields, rows=ROWS, **ALONE)


README = """---
configs:
- config_name: default
  data_files: [{{split: train, path: a.csv}}]
{settings}
---
"""


@pytest.mark.parametrize(
    ("settings", "content"),
    [
        (r'  sep: "\t"', 'text\tn\n"a" b\t1\n007\t2\n'),
        ('  delimiter: ";"', 'text;n\n"""a"" b";1\n007;2\n'),
        ("  quoting: 3", 'text,n\n"a" b,1\n007,2\n'),
        ("  column_names: [text, n]\n  header: null", '"""a"" b",1\n007,2\n'),
    ],
)
def test_a_readme_says_how_files_are_written(tmp_path: Path, settings: str, content: str) -> None:
    write(tmp_path / "README.md", README.format(settings=settings))
    write(tmp_path / "a.csv", content)
    source = hub(tmp_path, val=None, test=None, val_fraction=0, test_fraction=0)
    assert texts(source, "train") == ['"a" b', "007"]


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of what was fetched from a hub that can't be reached now."""
    from datasets import config

    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "fetched"))
    return tmp_path / "fetched"


def test_without_a_connection_what_was_fetched_is_read(unreachable: Path) -> None:
    commit = unreachable / "datasets--nobody--numbers" / "snapshots" / ("0" * 40)
    (commit.parents[1] / "refs").mkdir(parents=True)
    (commit.parents[1] / "refs" / "main").write_text(commit.name)
    commit.mkdir(parents=True)
    for split, text in (("train", "first"), ("validation", "10.50"), ("test", "007")):
        write_table(commit / f"{split}.csv", {"text": [text]})
    source = Hub("nobody/numbers", **SETTINGS)
    assert [texts(source, split) for split in SPLITS] == [["first"], ["10.50"], ["007"]]


READ = """
from everytoken.corpora.hub import Hub
columns = {"text": "text"}
hub = Hub("nobody/numbers", None, "train", "validation", "test", columns, ["text"], 0, 0, 1)
print([example["text"] for split in ("train", "val", "test") for example in hub.examples(split)])
"""


@pytest.mark.slow
def test_files_are_fetched_once_from_a_hub(tmp_path: Path) -> None:
    texts = {"train": "first", "validation": "10.50", "test": "007"}
    files = {f"{split}.csv": f"text\n{text}\n".encode() for split, text in texts.items()}
    own = {**os.environ, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def read(**settings: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", READ], env=own | settings, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with hub_server("nobody/numbers", files) as address:
        assert read(HF_ENDPOINT=address) == f"{list(texts.values())}\n"
    assert read(HF_HUB_OFFLINE="1") == f"{list(texts.values())}\n"


@pytest.mark.bad_input
def test_splits_and_columns_that_are_not_there(folder: Path) -> None:
    has = "has no split 'dev'; it has train, validation, test"
    refused(folder, has, "data.val_split=NAME, or null", "data.val_fraction", val="dev")
    refused(folder, has, "give data.train_split=NAME", train="dev")
    refused(folder, "no column 'body'; it has 'id', 'text'", columns={"text": "body"})
    refused(folder, "no column 'text.de'", columns={"text": "text.de"})


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"text": null}', ["train.jsonl, line 2", "null"]),
        ('{"text": "a\\u0000"}', ["train.jsonl, line 2", "NUL"]),
    ],
)
def test_rows_that_are_no_text(tmp_path: Path, row: str, words: list[str]) -> None:
    write(tmp_path / "train.jsonl", f'{{"text": "first"}}\n{row}\n')
    refused(tmp_path, *words, val=None, test=None, val_fraction=0, test_fraction=0)


@pytest.mark.bad_input
def test_lines_have_one_column(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", "first\n")
    columns = {"columns": {"text": "body"}, "val": None, "test": None}
    refused(tmp_path, "no column 'body'", "are the column 'text'", **columns)


@pytest.mark.bad_input
def test_a_readme_that_asks_for_more(tmp_path: Path) -> None:
    write(tmp_path / "README.md", README.format(settings="  skiprows: 2"))
    write(tmp_path / "a.csv", "text\na\n")
    refused(tmp_path, "README.md", "skiprows=2", "data=text", val=None, test=None)


@pytest.mark.bad_input
def test_files_that_are_broken(tmp_path: Path) -> None:
    file = write(tmp_path / "train.parquet", "not parquet")
    refused(tmp_path, f"{file}: broken parquet", val=None, test=None)
    file.unlink()
    refused(tmp_path, f"data.name={tmp_path} can't be loaded: ", "data files")
    refused(tmp_path / "nowhere", "can't be loaded: ", "nowhere")
    with pytest.raises(UserError, match=r"data\.name is empty"):
        Hub("", **SETTINGS)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.jsonl.gz", gzip.compress(b'{"text": "a"}' * 99, mtime=0)[:-9], "broken gz"),
        ("train.jsonl", b'{"text": "a"}\n{"te', "line 2: not JSON"),
        ("train.csv", b"text\n\xff\n", "line 2: byte 1 of the line (0xff) isn't UTF-8"),
        ("train.jsonl", b"", "has no example"),
        ("train.csv.zip", b"PK", "names of files must end in"),
        ("train.arrow", b"nothing", "can't be loaded"),
        ("broken.py", b"import datasets", "scripts are no longer supported"),
    ],
)
def test_whatever_is_wrong_with_a_folder_is_one_line(
    tmp_path: Path,
    name: str,
    content: bytes,
    words: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / name).write_bytes(content)
    refused(tmp_path / "broken", words, val=None, test=None)
    assert caplog.text == capfd.readouterr().err == ""


@pytest.mark.bad_input
@pytest.mark.usefixtures("unreachable")
def test_no_connection() -> None:
    refused("nobody/nothing", "data.name=nobody/nothing can't be loaded: ", "reach", "Offline")
