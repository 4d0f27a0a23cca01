"""Columns are read back as they were written, and rows that can't be are refused by place."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everytoken.corpora.tables import table
from everytoken.errors import UserError
from support.corpus_files import refused, write, write_table

ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz", "a.tsv", "a.tsv.gz", "a.parquet"]
)
@given(rows=st.lists(st.tuples(ANY, ANY), max_size=5))
@settings(max_examples=60, deadline=None)
def test_columns_are_those_written(
    tmp_path_factory: pytest.TempPathFactory, name: str, rows: list[tuple[str, str]]
) -> None:
    columns = {"one": [row[0] for row in rows], "two, too": [row[1] for row in rows]}
    file = write_table(tmp_path_factory.getbasetemp() / name, columns)
    assert list(table(file, ["one", "two, too"])) == rows
    assert list(table(file, ["two, too"])) == [(row[1],) for row in rows]


def test_a_column_may_be_inside_another(tmp_path: Path) -> None:
    row = {"pair": {"de": "ja", "en": "yes"}, "a.b": "dotted"}
    texts = [("yes", "dotted")]
    file = write(tmp_path / "a.jsonl", json.dumps(row))
    assert list(table(file, ["pair.en", "a.b"])) == texts
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    assert list(table(tmp_path / "a.parquet", ["pair.en", "a.b"])) == texts


def test_parquet_that_is_broken(tmp_path: Path) -> None:
    texts = [f"text {n} {n**9}" for n in range(1000)]
    file = write_table(tmp_path / "a.parquet", {"text": texts})
    whole = file.read_bytes()
    for broken in (b"", b"no parquet", whole[: len(whole) // 2], b"PAR1" + bytes(99) + b"PAR1"):
        file.write_bytes(broken)
        refused(lambda: list(table(file, ["text"])), str(file), "broken parquet")
    file.write_bytes(whole[:40] + b"\xff" * 2000 + whole[2040:])
    refused(lambda: list(table(file, ["text"])), str(file), "broken parquet")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": "a"', ["not JSON"]),
        ("nonsense", ["not JSON"]),
        ("[" * 100_000, ["not JSON"]),
        ('["a"]', ["must be an object"]),
        ('{"title": "a", "body": "b"}', ["no column 'text'", "title, body"]),
        ('{"text": null}', ["'text' is null"]),
        ('{"text": 5}', ["'text' is no text but int"]),
        ('{"text": ["a"]}', ["'text' is no text but list"]),
        (r'{"text": "a\u0000"}', ["NUL"]),
        (r'{"text": "\ud800"}', ["surrogate"]),
    ],
)
def test_rows_of_json_lines(tmp_path: Path, line: str, words: list[str]) -> None:
    file = write(tmp_path / "a.jsonl", f'{{"text": "first"}}\n\n{line}\n')
    refused(lambda: list(table(file, ["text"])), f"{file}, line 3", *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('id,text\n1,"two\nlines"\n2\n', ["line 4", "1 values but 2 columns", "id, text"]),
        ('id,text\n1,"two\nlines"\n2,a,b\n', ["line 4", "3 values but 2 columns"]),
        ('id,text\n1,"open\nlines\n', ["line 2", "can't be read as a row"]),
        ('id,text\n1,"a"b\n', ["line 2", "can't be read as a row"]),
        ("id,title\n1,a\n", ["no column 'text'", "id, title"]),
        ("text,text\n1,a\n", ["2 times the column 'text'"]),
        ("", ["empty", "columns"]),
        ("\n\n", ["empty", "columns"]),
    ],
)
def test_rows_of_csv(tmp_path: Path, content: str, words: list[str]) -> None:
    file = write(tmp_path / "a.csv", content)
    refused(lambda: list(table(file, ["text"])), str(file), *words)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (pa.array(["a", None]), ["row 2", "'text' is null"]),
        (pa.array([1, 2]), ["row 1", "'text' is no text but int"]),
        (pa.array([["a"], ["b"]]), ["row 1", "'text' is no text but list"]),
        (pa.array(["a", "b\0"]), ["row 2", "NUL"]),
    ],
)
def test_rows_of_parquet(tmp_path: Path, values: pa.Array, words: list[str]) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": values, "id": [1, 2]}), file)
    refused(lambda: list(table(file, ["text"])), str(file), *words)
    refused(lambda: list(table(file, ["txt"])), str(file), "no column 'txt'", "text, id")


@pytest.mark.bad_input
def test_messages_name_the_line_where_a_row_begins(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", 'text\r\n"one\r\n\r\n"\r\nx,y\r\n')
    with pytest.raises(UserError) as error:
        list(table(file, ["text"]))
    assert re.search(r"a\.csv, line 5: 2 values", str(error.value))
