"""Columns are read back as they were written, and rows that can't be are refused by place."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everytoken.corpora.separated import Dialect
from everytoken.corpora.tables import table
from everytoken.errors import UserError
from support.corpus_files import refused, write, write_table

ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.csv.gz", "a.tsv", "a.tsv.gz", "a.parquet"],
)
@given(rows=st.lists(st.tuples(ANY, ANY), max_size=5))
@settings(max_examples=60, deadline=None)
def test_columns_are_those_written(
    tmp_path_factory: pytest.TempPathFactory, name: str, rows: list[tuple[str, str]]
) -> None:
    columns = {"one": [row[0] for row in rows], "two, too": [row[1] for row in rows]}
    file = write_table(tmp_path_factory.getbasetemp() / name, columns)
    quoted = Dialect(quoted=True)
    assert list(table(file, ["one", "two, too"], quoted)) == rows
    assert list(table(file, ["two, too"], quoted)) == [(row[1],) for row in rows]
    with possibly_asked():
        assert list(table(file, ["one", "two, too"])) == rows


@contextmanager
def possibly_asked() -> Iterator[None]:
    """Let pass that quotes may be both, but no error else, and nothing that is read otherwise."""
    try:
        yield
    except UserError as error:
        if "data.quoted=true" not in str(error):
            raise


QUOTES = st.text(st.sampled_from('" a'), max_size=6)
MARKS = st.text(st.sampled_from('"\t\n\r a,'), max_size=6)


@pytest.mark.parametrize("ending", ["csv", "tsv"])
@given(rows=st.lists(st.tuples(MARKS, MARKS), max_size=4))
@settings(max_examples=200, deadline=None)
def test_no_quote_or_separator_is_taken_for_another(
    tmp_path_factory: pytest.TempPathFactory, ending: str, rows: list[tuple[str, str]]
) -> None:
    columns = {"one": [row[0] for row in rows], "two": [row[1] for row in rows]}
    file = write_table(new_file(tmp_path_factory, ending), columns)
    with possibly_asked():
        assert list(table(file, ["one", "two"])) == rows


@given(rows=st.lists(st.tuples(QUOTES, QUOTES), max_size=4), columns=st.integers(1, 2))
@settings(max_examples=200, deadline=None)
def test_no_quote_of_a_file_without_quoting_is_taken_for_another(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], columns: int
) -> None:
    lines = ["\t".join(row[:columns]) for row in [("one", "two"), *rows]]
    file = write(new_file(tmp_path_factory, "tsv"), "".join(f"{line}\n" for line in lines))
    texts = [(row[0],) for row in rows if row[:columns] != ("",)]
    assert list(table(file, ["one"], Dialect(quoted=False))) == texts
    with possibly_asked():
        assert list(table(file, ["one"])) == texts


NUMBERS = count()


def new_file(folders: pytest.TempPathFactory, ending: str) -> Path:
    """Of another name each time: equal ones of one size and moment are taken for one file."""
    return folders.getbasetemp() / f"{next(NUMBERS)}.{ending}"


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
        ('{"title": "a", "body": "b"}', ["no column 'text'", "'title', 'body'"]),
        ('{"text": "a", "id": 1, "text": "b"}', ["'text' more than once"]),
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
        ('id,text\n1,"two\nlines"\n2\n', ["line 4", "1 values but 2 columns", "'id', 'text'"]),
        ('id,text\n1,"two\nlines"\n2,a,b\n', ["line 4", "3 values but 2 columns"]),
        ('id,text\n1,"open\nlines\n', ["line 2", "can't be read as a row"]),
        ('id,text\n1,"a"b\n', ["line 2", "can't be read as a row", "on line 2, before 'b'"]),
        ('id,text\n1,"a\nb"\n2,"open\nc,d\n"e, f', ["line 4", "on line 6, before 'e, f'"]),
        ('id,text\n1,"a""b\nc"\n"2","op""en\nc\n', ["line 4", "never closed", "quoted=false"]),
        ('id,text\n"open,1\na,b"\nc,"d,"\n', ["line 2", "close its quote", "quoted=false"]),
        ("id,title\n1,a\n", ["no column 'text'", "'id', 'title'"]),
        ("text,text\n1,a\n", ["2 times the column 'text'"]),
        ("a;text\n1;a\n", ["no column 'text'", "'a;text'", "data.separator=semicolon"]),
        ("id,text\xa0\n1,a\n", ["no column 'text'", r"'text\xa0'"]),
        ("1,a\n2,b\n", ["no column 'text'", "data.column_names"]),
        ("id,text\r1,a\r2,b\r", ["carriage returns only"]),
        ('id,text\n"1",a\rb\n', ["line 2", "a carriage return in a value that isn't quoted"]),
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
        (pa.array([1, 2]), ["'text' is no text but int64"]),
        (pa.array([["a"], ["b"]]), ["'text' is no text but list"]),
        (pa.array(["a", "b\0"]), ["row 2", "NUL"]),
    ],
)
def test_rows_of_parquet(tmp_path: Path, values: pa.Array, words: list[str]) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": values, "id": [1, 2]}), file)
    refused(lambda: list(table(file, ["text"])), str(file), *words)
    refused(lambda: list(table(file, ["txt"])), str(file), "no column 'txt'", "'text', 'id'")


@pytest.mark.bad_input
def test_messages_name_the_line_where_a_row_begins(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", 'text\r\n"one\r\n\r\n"\r\nx,y\r\n')
    with pytest.raises(UserError) as error:
        list(table(file, ["text"]))
    assert re.search(r"a\.csv, line 5: 2 values", str(error.value))


def test_how_values_are_written_may_be_said(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", 'one|two\n\'a,b|"c"\n')
    for separator in ("|", "pipe"):
        assert list(table(file, ["one", "two"], Dialect(separator))) == [("'a,b", "c")]
    assert list(table(file, ["two"], Dialect("|", quoted=False))) == [('"c"',)]
    file = write(tmp_path / "a.tsv", "Go.\tGeh.\nHi.\tHallo.\n")
    named = Dialect(column_names=["en", "de"])
    assert list(table(file, ["de"], named)) == [("Geh.",), ("Hallo.",)]
    write(file, "en\tde\nGo.\tGeh.\n")
    refused(lambda: list(table(file, ["de"], named)), "has the names of data.column_names")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"separator": ""}, ["data.separator", "tab, comma, semicolon, pipe"]),
        ({"separator": "||"}, ["data.separator", "got '||'"]),
        ({"separator": '"'}, ["data.separator"]),
        ({"quoted": "no"}, ["data.quoted must be true, false or null, got 'no'"]),
        ({"column_names": "en"}, ["data.column_names", "[en,de]"]),
        ({"column_names": []}, ["data.column_names"]),
    ],
)
def test_what_can_not_be_said(settings: dict[str, Any], words: list[str]) -> None:
    refused(lambda: Dialect(**settings), *words)
