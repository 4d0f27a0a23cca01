"""Words with a tag each, from any kind of file; what doesn't fit is refused with its place."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from everytoken.config.keys import conf_dir
from everytoken.corpora.splits import LEAKED, SPLITS
from everytoken.corpora.tagged import ENDINGS, TaggedWords
from everytoken.errors import UserError
from support.corpus_files import write

SENTENCES = [
    (["Anna", "met", '"Bob"', "."], ["B-PER", "O", "B-PER", "O"]),
    (["#", "New", "York", "10\u00a0000"], ["O", "B-LOC", "I-LOC", "O"]),
    (["日本"], ["B-LOC"]),
]
Tagged = list[tuple[list[str], list[str]]]


def corpus(path: Path, **settings: Any) -> TaggedWords:
    places = {"train": str(path), "val": None, "test": None}
    columns = {"word": None, "tag": None, "names": None, "split": "punctuation"}
    shares = {"val_fraction": 0, "test_fraction": 0, "seed": 1}
    return TaggedWords(**{**places, **columns, **shares, **settings})


def read(source: TaggedWords, split: str = "train") -> Tagged:
    found = ([json.loads(one[f]) for f in source.fields] for one in source.examples(split))
    return [(words, tags) for words, tags in found]


def columns(sentences: Tagged, form: str) -> str:
    blocks = ("".join(form.format(w=w, t=t) for w, t in zip(*s, strict=True)) for s in sentences)
    return "\n".join(blocks)


def write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    return write(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("name", "form", "settings"),
    [
        ("a.conll", "{w} {t}\n", {}),
        ("a.txt", "{w} NN  I-NP {t}\n", {}),
        ("a.tsv", "{w}\t{t}\n", {}),
        ("a.tsv.gz", "{w}\tNN\t{t}\r\n", {}),
        ("a.conll", "{t} x {w}\n", {"word": -1, "tag": 0}),
        ("a.conllu", "1\t{w}\tx\t{t}\t_\n", {"word": 1, "tag": 3}),
    ],
)
def test_columns(tmp_path: Path, name: str, form: str, settings: dict[str, Any]) -> None:
    text = columns(SENTENCES, form)
    assert read(corpus(write(tmp_path / name, text), **settings)) == SENTENCES


def test_documents_comments_and_blank_lines_are_no_words(tmp_path: Path) -> None:
    text = "-DOCSTART- -X- O\n\n \t\nAnna x B-PER\n-DOCSTART- -X- -X- O\nBob y B-PER\n\n\n\n"
    assert [words for words, _ in read(corpus(write(tmp_path / "a.txt", text)))] == [
        ["Anna"],
        ["Bob"],
    ]
    text = "# text = zum Haus\n1-2\tzum\t_\n1\tzu\tADP\n2\tdem\tDET\n2.1\tx\tX\n3\tHaus\tNOUN\n"
    source = corpus(write(tmp_path / "a.conllu", text), word=1, tag=2)
    assert read(source) == [(["zu", "dem", "Haus"], ["ADP", "DET", "NOUN"])]
    numbers = (["1", "2"], ["O", "O"])
    for first, word in ((["Anna", "met"], None), (["1", "2"], 0)):  # of a file where they are words
        text = columns([(first, ["O", "O"]), numbers], "{w} {t}\n")
        assert read(corpus(write(tmp_path / "b.txt", text), word=word))[1] == numbers


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
@pytest.mark.parametrize(
    ("word", "tag"), [("tokens", "tags"), ("tokens", "ner_tags"), ("words", "tags")]
)
def test_lists_are_found_by_their_names(tmp_path: Path, name: str, word: str, tag: str) -> None:
    rows = [{"id": "a", "text": "…", word: words, tag: tags} for words, tags in SENTENCES]
    file = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif name == "a.json":
        write(file, json.dumps(rows))
    else:
        write_rows(file, rows)
    assert read(corpus(file)) == SENTENCES
    assert read(corpus(file, word=word, tag=tag)) == SENTENCES


def test_tags_that_are_numbers_are_named(tmp_path: Path) -> None:
    names = ["O", "B-PER", "B-LOC", "I-LOC"]
    rows = [
        {"tokens": words, "ner_tags": [names.index(tag) for tag in tags]}
        for words, tags in SENTENCES
    ]
    file = write_rows(tmp_path / "a.jsonl", rows)
    assert read(corpus(file, names=names)) == SENTENCES


@pytest.mark.parametrize("name", ["spans", "entities"])
def test_marked_parts_of_texts(tmp_path: Path, name: str) -> None:
    spans: list[Any] = [{"start": 14, "end": 22, "label": "LOC", "id": 7}, [0, 4, "PER"]]
    rows = [{"text": "Anna lives in New York.", name: spans}, {"text": "Yes", name: []}]
    found = read(corpus(write_rows(tmp_path / "a.jsonl", rows)))
    assert found == [
        (["Anna", "lives", "in", "New", "York", "."], ["B-PER", "O", "O", "B-LOC", "I-LOC", "O"]),
        (["Yes"], ["O"]),
    ]


def test_splits_are_as_of_all_corpora(tmp_path: Path) -> None:
    train = write(tmp_path / "train.txt", columns([*SENTENCES, *SENTENCES[:1]], "{w} {t}\n"))
    val = write(tmp_path / "val.txt", columns(SENTENCES[:1], "{w} {t}\n"))
    source = corpus(train, val=str(val))
    assert (read(source), read(source, "val")) == (SENTENCES[1:], SENTENCES[:1])
    assert source.dropped["train"] == {LEAKED: 2}
    assert source.dropped_at["train"] == {LEAKED: "sentences 1, 4"}
    many = [([f"w{i}"], ["O"]) for i in range(60)]
    source = corpus(
        write(tmp_path / "many.txt", columns(many, "{w} {t}\n")),
        val_fraction=0.2,
        test_fraction=0.2,
    )
    parts = {split: read(source, split) for split in SPLITS}
    assert sorted(one for part in parts.values() for one in part) == sorted(many)
    assert all(parts.values())


def test_a_row_without_words_is_a_gap(tmp_path: Path) -> None:
    rows = [{"tokens": ["a"], "tags": ["O"]}, {"tokens": [], "tags": []}]
    file = write_rows(tmp_path / "a.jsonl", rows)
    source = corpus(
        write_rows(tmp_path / "b.jsonl", [{"tokens": ["b"], "tags": ["O"]}]), val=str(file)
    )
    assert read(source, "val") == [(["a"], ["O"])]
    assert source.gaps["val"] == [1]


def test_its_yaml_names_the_endings() -> None:
    text = (conf_dir() / "data" / "tagged.yaml").read_text()
    assert all(ending in text for ending in ENDINGS if ending != ".ndjson")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "text", "settings", "message"),
    [
        ("a.conll", "Anna\n", {}, "line 1: one column: a word and its tag are two"),
        ("a.conll", "Anna O\n\nmet\n", {}, "line 3: columns: 1 ('met'), and 2 in the lines before"),
        ("a.conll", "Anna NN O\nmet O\n", {}, "line 2: columns: 2"),
        ("a.tsv", "Anna\tO\nmet\t\n", {}, "line 2: the tag is empty"),
        ("a.tsv", "\tO\n", {}, "line 1: the word is empty"),
        ("a.conll", "Anna O\n", {"word": 2}, "data.word=2 isn't among its 2 columns"),
        ("a.conll", "Anna O\n", {"word": 1}, "column 1 for both"),
        ("a.conll", "Anna O\n", {"tag": "ner"}, "data.tag=ner: columns of"),
        ("a.jsonl", "{}\n", {"word": 0}, "data.word=0: columns of"),
        ("a.conll", "\n\n", {}, "has no example"),
        ("a.jsonl", '{"a": 1, "b": 2}', {}, "line 1: no columns tokens/words and tags/ner_tags"),
        ("a.jsonl", '{"a": 1}', {}, "there is 'a' only; columns of .conll are read by data=tagged"),
        ("a.jsonl", '{"tokens": ["a"], "tags": ["O"]}', {"tag": "ner"}, "data.tag=ner"),
        (
            "a.jsonl",
            '{"tokens": ["a"], "tags": ["O"], "ner_tags": ["O"]}',
            {},
            "tokens and tags or tokens and ner_tags: set data.word and data.tag",
        ),
        (
            "a.jsonl",
            '{"tokens": ["a", "b"], "tags": ["O"]}',
            {},
            "line 1: words in 'tokens': 2, tags in 'tags': 1; give one tag a word",
        ),
        ("a.jsonl", '{"tokens": ["a", " "], "tags": ["O", "O"]}', {}, "word 2 of column 'tokens'"),
        ("a.jsonl", '{"tokens": ["a", null], "tags": ["O", "O"]}', {}, "is None: give a text"),
        ("a.jsonl", '{"tokens": ["a"], "tags": [""]}', {}, "tag 1 of column 'tags' is ''"),
        ("a.jsonl", '{"tokens": ["a"], "tags": [true]}', {}, "tag 1 of column 'tags' is True"),
        ("a.jsonl", '{"tokens": ["a\\u0000"], "tags": ["O"]}', {}, "holds a NUL character"),
        ("a.jsonl", '{"tokens": "a b", "tags": ["O", "O"]}', {}, "give a list, of words"),
        ("a.jsonl", '{"tokens": ["a"], "tags": "O"}', {}, "give a list, of words"),
        ("a.jsonl", '{"tokens": ["a"], "tags": [1]}', {}, "'data.names=[O,B-PER,I-PER]'"),
        ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["O", 1]}', {}, "tag 2 of column 'tags'"),
        ("a.jsonl", '{"tokens": ["a"], "tags": [2]}', {"names": ["O", "X"]}, "0 to 1"),
        ("a.jsonl", '{"tokens": ["a"], "tags": ["Y"]}', {"names": ["O", "X"]}, "doesn't have"),
        (
            "a.jsonl",
            '{"text": "Anna", "spans": [{"start": 0, "end": 3, "label": "X"}]}',
            {},
            "line 1: the span 'Ann' (0 to 3, X) cuts the word 'Anna'",
        ),
        ("a.jsonl", '{"text": "Anna", "spans": [{"start": 0}]}', {}, "two numbers of characters"),
        ("a.jsonl", '{"text": "Anna", "spans": [[0, 4.0, "X"]]}', {}, "two numbers of characters"),
        ("a.jsonl", '{"text": "Anna", "spans": null}', {}, "give a list of them, [] for none"),
        ("a.jsonl", '{"tokens": "a b", "tags": "O O"}', {}, "words and one of their tags"),
        ("a.conllu", "# x\n1\tzu\tADP\n2\tdem\tDET\n", {}, "line 3: the first column numbers"),
        ("a.conll", "1 x O\n\n1 x O\n2 y O\n", {}, "line 4: the first column numbers the words"),
        ("a.csv", "word,tag\n", {}, "names of files must end in"),
    ],
)
def test_what_doesnt_fit_is_refused_with_its_place(
    tmp_path: Path, name: str, text: str, settings: dict[str, Any], message: str
) -> None:
    file = write(tmp_path / name, text)
    with pytest.raises(UserError) as error:
        read(corpus(file, **settings))
    assert message in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
