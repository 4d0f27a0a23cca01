"""A text that goes in comes out as it is written: for each corpus, type of file and kind of text.

Or it is refused, with the file and the line or column. Neither a type that is guessed nor a quote
or a line end that is taken for something else changes one without a word.
"""

import csv
import datetime
import io
import json
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from everytoken.corpora.files import ending
from everytoken.corpora.hub import Hub
from everytoken.corpora.pairs import Pairs
from everytoken.corpora.separated import Dialect
from everytoken.corpora.splits import SplitSource
from everytoken.corpora.tables import TABLES, table
from everytoken.corpora.text import Text
from everytoken.data.corpus import Corpus
from support.corpus_files import refused, write, write_table

TEXTS = {
    "words": ["one two", "Zug Ärger", "日本語", "a  b", "\xa0hard", "tail\xa0", " blank around "],
    "numbers": ["10.50", "0.50", "1e5", "1,234.5", "-0", "+1", "1_000", "0x1F", "١٢", "inf", "3."],
    "codes": ["0007", "00", "01", "1.0", "1.10", "12345678901234567890123"],
    "dates": ["2010-03-01", "2010-03-01T10:00:00+02:00", "01/02/03", "12:30", "2010-03-01 00:00Z"],
    "booleans": ["true", "False", "yes", "T"],
    "missing": ["NA", "null", "NaN", "None", "N/A", "nan", "-", "<NA>", "#N/A"],
    "quotes": ['"Help"', '"Help" he said', 'he said "no"', '"', '""', "'a'", '5" disk', '"a""b"'],
    "separators": ["a,b", "a;b", "a\tb", "a|b", "\tb", "b\t", ","],
    "marks": ["\ufeffbegins", "in\ufeffside", "\u200bzero", "e\u0301", "é", "👩\u200d🚀"],
    "breaks": ["a\u2028b", "a\u2029b", "a\x85b", "a\x0bb", "a\x0cb", "a\x1cb", "a\x1eb"],
    "returns": ["a\rb", "\rb"],
    "line ends": ["a\nb", "a\r\nb", "\n\nb\n", '"a\nb"', "a\tb\nc"],
    "json": ['{"text": 1}', "[1, 2]", r"\n \t \\ \" \u0041", "a: b", "# a", "%41", "&amp;"],
}
"""Kinds of texts, none of them blank."""

FILES = [
    *("a.txt", "a.csv", "a.tsv", "a.jsonl", "a.ndjson", "a.json", "a.parquet"),
    *("a.txt.gz", "a.csv.bz2", "a.tsv.xz", "a.jsonl.zst"),
]

SHARES: dict[str, Any] = {"val_fraction": 0, "test_fraction": 0, "seed": 1}


def write_texts(file: Path, texts: Sequence[str]) -> bool:
    """Write two columns, each with these texts, or lines; False if the format can't hold one."""
    if ending(file) == ".txt":
        if any("\n" in text for text in texts):
            return False
        write(file, "\ufeff" + "".join(f"{text}\n" for text in texts))
    else:
        write_table(file, {"source": list(texts), "target": list(texts)})
    return True


def corpus(data: str, files: dict[str, Path], dialect: dict[str, Any]) -> SplitSource:
    """What data=text, pairs or hub makes of the files of each split."""
    train, val, test = (str(files[split]) for split in ("train", "validation", "test"))
    if data == "text":
        return Text(train, val, test, "target", "line", "content", **SHARES, **dialect)
    if data == "pairs":
        names: list[dict[str, Any]] = [
            {"path": None, "source": path, "target": path}
            if ending(Path(path)) == ".txt"
            else {"path": path, "source": "source", "target": "target"}
            for path in (train, val, test)
        ]
        return Pairs(names[0], names[1], names[2], **SHARES, **dialect)
    column = "text" if ending(files["train"]) == ".txt" else "target"
    folder = str(files["train"].parent)
    splits, columns = ("train", "validation", "test"), {"target": column}
    return Hub(folder, None, *splits, columns, ["target"], **SHARES, **dialect)


@pytest.mark.parametrize("data", ["text", "pairs", "hub"])
@pytest.mark.parametrize("name", FILES)
def test_texts_come_out_as_they_are_written(tmp_path: Path, data: str, name: str) -> None:
    """Also where the training texts, which are read first, are of another kind."""
    dialect = {"quoted": True} if ending(Path(name)) in (".csv", ".tsv") else {}
    for kind, texts in TEXTS.items():
        folder = tmp_path / kind
        folder.mkdir()
        suffixes = "".join(Path(name).suffixes)
        splits = {"train": ["first", "words"], "validation": texts, "test": ["last"]}
        files = {split: folder / f"{split}{suffixes}" for split in splits}
        if not all([write_texts(files[split], texts) for split, texts in splits.items()]):
            continue
        source = corpus(data, files, dialect)
        assert [list(example.values())[-1] for example in source.examples("val")] == texts, kind
        assert source.gaps["val"] == []


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("quotes", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("columns", [1, 2])
def test_quotes_are_seen_or_asked_for(
    tmp_path: Path, name: str, kind: str, quotes: Any, columns: int
) -> None:
    stream = io.StringIO(newline="")
    rows = [[text, "x"][:columns] for text in ["text", *TEXTS[kind]]]
    delimiter = "\t" if name == "a.tsv" else ","
    csv.writer(stream, delimiter=delimiter, quoting=quotes).writerows(rows)
    file = write(tmp_path / name, stream.getvalue())
    as_written = [(text,) for text in TEXTS[kind]]
    assert list(table(file, ["text"], Dialect(quoted=True))) == as_written
    asked = {
        "a.csv": ["line ends"] if columns == 1 else [],
        "a.tsv": ["quotes", "returns", "line ends", "json"],
    }
    if quotes == csv.QUOTE_MINIMAL and kind in asked[name]:
        refused(lambda: list(table(file, ["text"])), f"{file}, line", "data.quoted=true")
    else:
        assert list(table(file, ["text"])) == as_written


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("kind", [kind for kind in TEXTS if kind != "line ends"])
@pytest.mark.parametrize("columns", [1, 2])
def test_quotes_of_files_without_quoting_are_text(
    tmp_path: Path, name: str, kind: str, columns: int
) -> None:
    delimiter = "\t" if name == "a.tsv" else ","
    texts = [text for text in TEXTS[kind] if delimiter not in text]
    rows = [delimiter.join([text, "x"][:columns]) for text in ["text", *texts]]
    file = write(tmp_path / name, "\n".join(rows))
    as_written = [(text,) for text in texts]
    assert list(table(file, ["text"], Dialect(quoted=False))) == as_written
    if name == "a.tsv" and kind != "quotes":
        assert list(table(file, ["text"])) == as_written


def lines_of(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize(
    ("rows", "texts"),
    [
        (['"Help" he said\t1', "a\t2"], ['"Help" he said', "a"]),  # no quoted value goes on
        (['"Help\t1', "a\t2"], ['"Help', "a"]),  # the only one, and it would never end
        (['"Help"\t1', '"Help" a\t2', '"a\t3', 'b"\t4'], ['"Help"', '"Help" a', '"a', 'b"']),
        (['"a\tb"\t1', "c\t2"], ["a\tb", "c"]),
        (['"a', 'b"\t1', "c\t2"], ["a\nb", "c"]),
        (['5" disk\t1', 'say "no"\t2'], ['5" disk', 'say "no"']),  # none begins with a quote
    ],
)
def test_what_is_seen_of_quotes_in_tsv(tmp_path: Path, rows: list[str], texts: list[str]) -> None:
    file = write(tmp_path / "a.tsv", lines_of("text\tn", *rows))
    assert list(table(file, ["text"])) == [(text,) for text in texts]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "rows", "words"),
    [
        ("a.tsv", ["text\tn", "x\t0", '"a\t1', "b\t2", 'c"\t3', "d\t4"], ["line 3: a quote"]),
        ("a.csv", ["text,n", "x,0", '"a,1', "b,2", 'c",3', "d,4"], ["line 3", "to line 5"]),
        ("a.csv", ["text", "x", '"a', "b", 'c"', "d"], ["line 3", "to line 5"]),
        ("a.tsv", ["text", "x", '"a', "b", 'c"', "d"], ["line 3: a quote"]),
        ("a.tsv", ["text\tn", '"Help"\t1', "a\t2"], ["line 2: a quote"]),
        ("a.tsv", ["text\tn", "a\t2", '"say ""no"""\t1'], ["line 3: a quote"]),
        ("a.tsv", ["text\tn", '"say ""no"""\t1', '"a" b\t2'], ["line 2 is quoted", "line 3 can't"]),
        ("a.csv", ["text,n", '"Help" a,1', "b,2"], ["line 2", "can't be read as a row"]),
        # Within what is swallowed there may be a line that doesn't fit.
        ("a.tsv", ["text\tn", '"a\t1', "b\t2\t9", "b\t2", 'c"\t3'], ["line 2", "to line 5"]),
    ],
)
def test_quotes_that_may_be_both(
    tmp_path: Path, name: str, rows: list[str], words: list[str]
) -> None:
    file = write(tmp_path / name, lines_of(*rows))
    refused(lambda: list(table(file, ["text"])), str(file), "data.quoted=false", *words)


def test_rows_that_look_like_swallowed_ones_are_none_where_commas_are_text(tmp_path: Path) -> None:
    rows = ['1,"Great phone', 'works well, really"', '2,"good, cheap"']
    file = write(tmp_path / "a.csv", lines_of("id,text", *rows))
    texts = [("Great phone\nworks well, really",), ("good, cheap",)]
    assert list(table(file, ["text"])) == texts


# Columns that hold something else than texts

TYPED = {
    "int": (7, pa.int64()),
    "float": (10.5, pa.float64()),
    "bool": (True, pa.bool_()),
    "date": (datetime.date(2010, 3, 1), pa.date32()),
    "timestamp": (datetime.datetime(2010, 3, 1), pa.timestamp("ns")),
    "decimal": (Decimal("10.50"), pa.decimal128(10, 2)),
    "binary": (b"ab", pa.binary()),
    "list": (["a"], pa.list_(pa.field("element", pa.string()))),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("data", ["text", "pairs", "hub"])
@pytest.mark.parametrize("kind", TYPED)
def test_a_typed_column_is_refused_by_name(tmp_path: Path, data: str, kind: str) -> None:
    value, arrow = TYPED[kind]
    files = {split: tmp_path / f"{split}.parquet" for split in ("train", "validation", "test")}
    for split, file in files.items():
        target = pa.array([value], arrow) if split == "train" else pa.array([split])
        pq.write_table(pa.table({"source": pa.array([split]), "target": target}), file)
    words = [str(files["train"]), "column 'target' is no text but", str(arrow).split("[")[0]]
    refused(lambda: list(corpus(data, files, {}).examples("train")), *words)


@pytest.mark.bad_input
@pytest.mark.parametrize("data", ["text", "pairs", "hub"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("value", [7, 10.5, True, None, ["a"], {"a": "b"}])
def test_a_json_value_that_is_no_text_is_refused_by_line(
    tmp_path: Path, data: str, name: str, value: Any
) -> None:
    suffix = Path(name).suffix
    files = {split: tmp_path / f"{split}{suffix}" for split in ("train", "validation", "test")}
    for split, file in files.items():
        bad = value if split == "train" else "text"
        rows = [{"source": split, "target": split}, {"source": split, "target": bad}]
        lines = lines_of(*map(json.dumps, rows))
        write(file, json.dumps(rows) if suffix == ".json" else lines)
    place = f"{files['train']}, {'row' if suffix == '.json' else 'line'} 2"
    refused(lambda: list(corpus(data, files, {}).examples("train")), place, "column 'target'")


def test_columns_that_nobody_asks_for_may_hold_anything(tmp_path: Path) -> None:
    """Also other things in each file, and none at all."""
    ids: list[Any] = [0, "n0", None, [1], {"a": 1}, 1.5]
    for number, value in enumerate(ids):
        row = {"target": f"text {number}", "id": value} | ({"more": 1} if number % 2 else {})
        write(tmp_path / f"train-{number}.jsonl", json.dumps(row))
    hub = Hub(str(tmp_path), None, "train", None, None, {"t": "target"}, ["t"], **SHARES)
    assert [example["t"] for example in hub.examples("train")] == [f"text {n}" for n in range(6)]


# A corpus of one's own


class Own:
    fields: tuple[str, ...] = ("text",)

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = list(texts)

    def examples(self, split: str) -> list[dict[str, str]]:
        return [{"text": text} for text in self.texts]


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_of_a_corpus_of_ones_own_are_not_touched(kind: str) -> None:
    records = Corpus(Own([*TEXTS[kind], ""]), ["text"], None).records("train")
    assert [record["text"] for record in records] == [*TEXTS[kind], ""]


def test_every_type_of_file_is_walked_over() -> None:
    assert {ending(Path(name)) for name in FILES} == {".txt", *TABLES}
