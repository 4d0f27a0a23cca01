"""Texts with classes, from files: what is read, left out, refused and told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from everytoken.corpora.columns import packed
from everytoken.corpora.labelled import Labelled
from everytoken.data.corpus import Corpus
from everytoken.data.counts import Counter
from everytoken.data.report import SplitReport
from everytoken.errors import UserError

Rows = list[dict[str, Any]]


def as_csv(folder: Path, rows: Rows) -> Path:
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    return written(folder / "a.csv", "\n".join(lines))


def as_tsv(folder: Path, rows: Rows) -> Path:
    lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
    return written(folder / "a.tsv", "\n".join(lines))


def as_jsonl(folder: Path, rows: Rows) -> Path:
    return written(folder / "a.jsonl", "\n".join(map(json.dumps, rows)))


def as_json(folder: Path, rows: Rows) -> Path:
    return written(folder / "a.json", json.dumps(rows))


def as_parquet(folder: Path, rows: Rows) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    return folder / "a.parquet"


def written(file: Path, text: str) -> Path:
    file.write_text(text + "\n")
    return file


KINDS = [as_csv, as_tsv, as_jsonl, as_json, as_parquet]


def source(path: Path, **changed: Any) -> Labelled:
    settings: dict[str, Any] = {"train": str(path), "val": None, "test": None}
    settings |= {"text": "text", "second": None, "label": "label", "names": None}
    settings |= {"most_classes": 1000, "val_fraction": 0.2, "test_fraction": 0.2, "seed": 1}
    return Labelled(**{**settings, **changed})


def some(labels: list[Any], count: int = 60) -> Rows:
    return [{"text": f"text {i}", "label": labels[i % len(labels)]} for i in range(count)]


def all_of(corpus: Labelled) -> list[dict[str, str]]:
    return [dict(e) for split in ("train", "val", "test") for e in corpus.examples(split)]


@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize("labels", [["no", "yes"], [0, 1], [10, 9]], ids=["words", "01", "9"])
def test_each_file_gives_its_texts_and_classes(
    tmp_path: Path, write: Callable[[Path, Rows], Path], labels: list[Any]
) -> None:
    rows = some(labels)
    corpus = source(write(tmp_path, rows))
    wanted = {(row["text"], f'["{row["label"]}"]') for row in rows}
    assert {(e["text"], e["labels"]) for e in all_of(corpus)} == wanted
    names = Corpus(corpus, ["text", "labels"], 1).labels("train")  # pyright: ignore
    assert names == sorted(map(str, labels), key=int if isinstance(labels[0], int) else str)


@pytest.mark.parametrize("write", [as_csv, as_jsonl])
def test_numbers_get_names(tmp_path: Path, write: Callable[[Path, Rows], Path]) -> None:
    corpus = source(write(tmp_path, some([0, 1])), names=["neg", "pos"])
    assert {e["labels"] for e in all_of(corpus)} == {'["neg"]', '["pos"]'}


def test_true_and_false_are_words(tmp_path: Path) -> None:
    corpus = source(as_jsonl(tmp_path, some([True, False])))
    assert {e["labels"] for e in all_of(corpus)} == {'["true"]', '["false"]'}


def test_a_second_text_is_read_with_the_first(tmp_path: Path) -> None:
    rows = [{"a": f"text {i}", "b": f"answer {i}", "label": str(i % 2)} for i in range(40)]
    corpus = source(as_tsv(tmp_path, rows), text="a", second="b")
    first = next(iter(corpus.examples("train")))
    assert [*first] == ["text", "second", "labels"]
    read = Corpus(corpus, ["text", "labels"], None)  # pyright: ignore
    assert read.fields == ["text", "second", "labels"]


def test_training_has_an_example_of_each_class_and_equal_texts_stay_together(
    tmp_path: Path,
) -> None:
    rows = some([*"abcdefghijklmnop"], 40) + some(["q"], 40)  # each text has two labels
    corpus = source(as_csv(tmp_path, rows))
    splits = {s: [dict(e) for e in corpus.examples(s)] for s in ("train", "val", "test")}
    assert {e["labels"] for e in splits["train"]} == {f'["{c}"]' for c in "abcdefghijklmnopq"}
    texts = [{e["text"] for e in found} for found in splits.values()]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 40


SETS = [["red"], ["blue", "red"], [], ["green"]]


@pytest.mark.parametrize("write", [as_jsonl, as_parquet, as_csv])
def test_several_labels_are_a_list_or_stand_in_one_text_and_none_is_no_blank(
    tmp_path: Path, write: Callable[[Path, Rows], Path]
) -> None:
    rows = some(SETS)
    if write is as_csv:
        rows = [row | {"label": "; ".join(reversed(row["label"]))} for row in rows]
    corpus = source(write(tmp_path, rows), label_separator=";" if write is as_csv else None)
    wanted = [packed(SETS[i % 4]) for i in range(60)]
    found = {e["text"]: e["labels"] for e in all_of(corpus)}
    assert [found[f"text {i}"] for i in range(60)] == wanted
    assert corpus.dropped.get("train", {}) == {}


def test_training_has_an_example_of_each_of_several_labels(tmp_path: Path) -> None:
    rows = some([["a", f"rare {i}"] for i in range(20)])
    corpus = source(as_jsonl(tmp_path, rows), val_fraction=0.4, test_fraction=0.4)
    names = Corpus(corpus, ["text", "labels"], None).labels("train")  # pyright: ignore
    assert names == sorted(["a", *(f"rare {i}" for i in range(20))])


def test_blank_texts_and_labels_are_counted_with_their_places(tmp_path: Path) -> None:
    rows = some(["no", "yes"])
    rows[3]["label"], rows[8]["label"], rows[9]["text"] = "", " ", ""
    corpus = source(as_csv(tmp_path, rows), val_fraction=0, test_fraction=0)
    assert len([*corpus.examples("train")]) == 57
    assert corpus.dropped["train"] == {"without a text or a label": 3}
    assert corpus.dropped_at["train"] == {"without a text or a label": "rows 4, 9, 10"}


def numbers_then_a_word() -> Rows:
    rows = some([0, 1])
    rows[5]["label"] = "sports"
    return rows


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("rows", "settings", "told"),
    [
        (numbers_then_a_word(), {}, r"line 6: the label .*'sports', is a word, and in .*line 1 it"),
        (some([1, None]), {}, r"line 2: the label in column 'label' is null: fill it"),
        (some([1, 0.5]), {}, r"line 2: the label in column 'label' is 0.5: give a word or a whole"),
        (some([{"a": 1}]), {}, r"line 1: the label in column 'label' is {'a': 1}: give a word"),
        (some(["no"]), {"label": "class"}, r"line 1: no column 'class'; there is 'text', 'label'"),
        (some([7]), {"names": ["a", "b"]}, r"line 1: .*is '7', and data.names has 2 names, of 0"),
        (some([-1]), {"names": ["a", "b"]}, r"line 1: .*is -1, which stands for no label"),
        *(
            (
                some([text]),
                {"label_separator": separator},
                r"is .*, a list that was written as a text",
            )
            for text in ("['a', 'b']", '["a"]', "[]")
            for separator in (None, ",")
        ),
        (some(["c"]), {"names": ["a", "b"]}, r"line 1: .*is 'c', and data.names has 2 names"),
        (
            [{"text": "t", "label": f"id{i}"} for i in range(10_000)],
            {},
            r"line 1001: with 'id1000', column 'label' has more than 1,000 labels.*no classes",
        ),
        (
            [{"text": "t", "label": f"id{i}"} for i in range(200)],
            {},
            r"column 'label' of .* has 200 different labels in 200 rows, which look like no",
        ),
    ],
    ids=[
        *("mixed", "null", "float", "object", "column", "names", "none"),
        *(f"list {i}" for i in range(6)),
        *("word", "10000", "200"),
    ],
)
def test_labels_that_are_none_are_refused_with_their_place(
    tmp_path: Path, rows: Rows, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        all_of(source(as_jsonl(tmp_path, rows), **settings))


@pytest.mark.bad_input
def test_labels_that_are_odd_are_told(tmp_path: Path) -> None:
    counter = Counter(None)
    for text, label in [("a", "0"), ("b", "0"), ("c", "sports"), ("a", "1"), ("b", "0")]:
        counter.add([text], [[1]], [text, f'["{label}"]'])
        counter.add_labels([label], in_order=False)
    counter.finish()
    report = SplitReport(5, 5, 1, {}, [5], counter.counts)
    told = "\n".join(report.warnings("train"))
    assert "labels are numbers (0, 1) and words (sports) mixed" in told
    assert "1 train texts have another label than when they were there before" in told
    assert "of the 3 labels 2 stand only once in train (sports, 1): misspelled" in told
    assert "capitals" not in told


@pytest.mark.bad_input
def test_labels_that_are_spelled_in_two_ways_are_told() -> None:
    counter = Counter(None)
    for i, label in enumerate(["good", "Good", "good ", "bad", "new york", "New  York"] * 2):
        counter.add([str(i)], [[1]], [str(i), json.dumps([label])])
        counter.add_labels([label], in_order=False)
    counter.finish()
    [told] = SplitReport(12, 12, 1, {}, [12], counter.counts).warnings("train")
    assert "'good' and 'Good' and 'good ', 'new york' and 'New  York' differ by capitals" in told


@pytest.mark.bad_input
@pytest.mark.parametrize(("labels", "told"), [(["a", "b", "a | b"], 1), (["a", "x|b"], 0)])
def test_labels_that_look_like_several_are_told(labels: list[str], told: int) -> None:
    counter = Counter(None)
    for i, label in enumerate(labels * 2):
        counter.add([str(i)], [[1]], [str(i), json.dumps([label])])
        counter.add_labels([label], in_order=False)
    counter.finish()
    found = [*SplitReport(9, 9, 1, {}, [9], counter.counts).warnings("train")]
    assert ["the labels 'a | b' look like several each" in line for line in found] == told * [True]
