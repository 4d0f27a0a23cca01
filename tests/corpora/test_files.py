"""Files are read back as they were written, and what can't be is refused with its place."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everytoken.corpora.files import OPENERS, documents, ending, find, lines, state
from everytoken.corpora.tables import TABLES, table
from support.corpus_files import refused, write, write_table

LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"))


# What was written is read


@pytest.mark.parametrize("suffix", ["", *OPENERS])
@given(texts=st.lists(LINE, max_size=5), end=st.sampled_from(["\n", "\r\n"]), mark=st.booleans())
@settings(max_examples=60, deadline=None)
def test_lines_are_those_written(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, texts: list[str], end: str, mark: bool
) -> None:
    """Also U+2028, form feeds and the like; neither CRLF nor a byte order mark is text."""
    content = ("\ufeff" if mark else "") + "".join(text + end for text in texts)
    if not mark and content.startswith("\ufeff"):
        content = f"\ufeff{content}"  # or a text's own would be taken for a mark
    file = write(tmp_path_factory.getbasetemp() / f"a.txt{suffix}", content)
    assert list(lines(file)) == texts
    assert list(documents(file)) == ["".join(f"{text}\n" for text in texts)]


def test_a_last_line_needs_no_end(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "one\n\ntwo")
    assert list(lines(file)) == ["one", "", "two"]
    assert list(documents(file)) == ["one\n\ntwo"]


def test_large_lines_take_linear_time(tmp_path: Path) -> None:
    def seconds(size: int) -> float:
        text = "word " * (size // 5)
        files = [write(tmp_path / "a.txt", text), write(tmp_path / "a.txt.gz", text)]
        begin = time.process_time()
        assert [len(line) for file in files for line in lines(file)] == [size, size]
        table_file = write_table(tmp_path / "a.csv", {"text": [text]})
        assert [len(value) for (value,) in table(table_file, ["text"])] == [size]
        return time.process_time() - begin

    assert seconds(10_000_000) < 50 * seconds(1_000_000)


def test_files_are_found_in_order(tmp_path: Path) -> None:
    names = ["b.txt", "a.txt.gz", "sub/c.jsonl", "notes.md", ".hidden/d.txt", "sub/.e.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, "x")

    def found(paths: str | Sequence[str], endings: Sequence[str] | None) -> list[str]:
        return [str(file.relative_to(tmp_path)) for file in find(paths, endings)]

    kinds = [".txt", *TABLES]
    assert found(str(tmp_path), kinds) == ["a.txt.gz", "b.txt", "sub/c.jsonl"]
    assert found(str(tmp_path / "**" / "*.jsonl"), kinds) == ["sub/c.jsonl"]
    assert found([str(tmp_path / "sub"), str(tmp_path / "b.*")], kinds) == ["sub/c.jsonl", "b.txt"]
    assert found(str(tmp_path / "notes.md"), None) == ["notes.md"]


def test_a_file_may_be_compressed_or_not_whatever_is_named(tmp_path: Path) -> None:
    packed, plain = write(tmp_path / "a.en.gz", "x"), write(tmp_path / "b.en", "x")
    assert find(str(tmp_path / "a.en"), None) == [packed]
    assert find(str(tmp_path / "b.en.gz"), None) == [plain]
    own = write(tmp_path / "a.en", "x")
    assert find(str(tmp_path / "a.en"), None) == [own]
    assert find(str(packed), None) == [packed]
    write(tmp_path / "folder.gz", "x")
    inside = tmp_path / "folder" / "c.txt"
    inside.parent.mkdir()
    write(inside, "x")
    assert find(str(tmp_path / "folder"), [".txt"]) == [inside]


def test_json_of_a_folder_is_about_its_data_unless_it_is_named(tmp_path: Path) -> None:
    data, about = write(tmp_path / "a.jsonl", "{}"), write(tmp_path / "info.json", "{}")
    assert find(str(tmp_path), TABLES) == [data]
    assert find(str(about), TABLES) == find(str(tmp_path / "*.json"), TABLES) == [about]


def test_the_home_folder_may_be_abbreviated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = write(tmp_path / "a.txt", "x")
    assert find("~/a.txt", None) == find("~/*.txt", None) == [file]


def test_the_state_of_a_file_changes_with_it(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "one")
    before = state([file])
    assert state([file]) == before
    write(file, "two!")
    assert state([file]) != before


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path) -> None:
    """As rsync and tar make it."""
    file = write(tmp_path / "a.txt", "one")
    before, times = state([file]), file.stat()
    while time.time_ns() - times.st_ctime_ns < 20_000_000:
        time.sleep(0.001)  # the clock of the file system is coarse
    write(file, "two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert state([file]) != before


# What can't be read


@pytest.mark.bad_input
def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    refused(lambda: find("nowhere/a.txt", None), "no file nowhere/a.txt")
    refused(lambda: find("nowhere/*.txt", None), "no file matches nowhere/*.txt")
    refused(lambda: find("~nobody-here/a.txt", None), "no file ~nobody-here/a.txt")
    refused(lambda: find([], None), "empty")
    refused(lambda: find("", None), "a path is empty")  # not the current folder
    refused(lambda: find(str(tmp_path), [".txt"]), str(tmp_path), "nothing to read", ".txt")
    refused(lambda: find(str(tmp_path), None), str(tmp_path), "nothing to read", "empty")


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["a.md", "a", "a.parquet.gz", "a.zip"])
def test_an_unknown_ending(tmp_path: Path, name: str) -> None:
    file = str(write(tmp_path / name, "x"))
    refused(lambda: find(file, [".txt", *TABLES]), file, ".txt", ".parquet", ".gz")


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.csv", "a.jsonl"])
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (b'ok "\xff"', ["byte 5", "0xff", "UTF-8"]),
        (b"caf\xc3", ["byte 4", "UTF-8"]),
        (b"\xed\xa0\x80", ["UTF-8"]),
        (b"a\0b", ["NUL", "character 2"]),
    ],
)
def test_bytes_that_are_no_text(tmp_path: Path, name: str, bad: bytes, words: list[str]) -> None:
    first = {".csv": b"text\n", ".jsonl": b'{"text": "a"}\n'}.get(ending(Path(name)), b"first\n")
    file = write(tmp_path / name, first + bad + b"\nlast\n")
    read = table(file, ["text"]) if ending(file) in TABLES else lines(file)
    refused(lambda: list(read), f"{file}, line 2", *words)


@pytest.mark.bad_input
@pytest.mark.parametrize("suffix", OPENERS)
def test_compressed_files_that_are_broken(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"a.txt{suffix}", "".join(f"line {n**5}\n" for n in range(5000)))
    whole, words = file.read_bytes(), [str(file), f"broken {suffix[1:]}", "after line"]
    damaged = whole[:2000] + b"\xff" * 50 + whole[2050:]
    for broken in (whole[:-20], b"plain text", *([damaged] if suffix != ".zst" else [])):
        file.write_bytes(broken)  # of .zst a checksum is optional, and here it has none
        refused(lambda: list(lines(file)), *words)


@pytest.mark.bad_input
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_told_from_other_bytes(tmp_path: Path, encoding: str) -> None:
    file = write(tmp_path / "a.txt", "two words\nmore\n".encode(encoding))
    refused(lambda: list(lines(file)), str(file), "UTF-16: save it as UTF-8")


@pytest.mark.bad_input
def test_carriage_returns_alone_end_no_lines(tmp_path: Path) -> None:
    """Within lines they are text; where there is nothing else, all texts would be one."""
    file = write(tmp_path / "a.txt", "one\rtwo\rthree\r")
    refused(lambda: list(lines(file)), str(file), "carriage returns only", "line feeds")
    assert list(lines(write(file, "one\rtwo\nthree\r\n"))) == ["one\rtwo", "three"]


@pytest.mark.bad_input
def test_a_file_that_vanishes(tmp_path: Path) -> None:
    refused(lambda: list(lines(tmp_path / "a.txt")), "can't read", "a.txt")
    refused(lambda: state([tmp_path / "a.txt"]), "can't read", "a.txt")
