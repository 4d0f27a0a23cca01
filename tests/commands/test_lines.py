"""Lines in, lines out: none is lost, and a file is whole or not there."""

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everytoken.commands.lines import (
    COLUMNS,
    UNPACKED_BY,
    breaks_shown,
    check_lines,
    lines,
    sink,
    source,
)
from everytoken.errors import UserError


def test_lines_come_without_their_ends():
    assert list(lines(io.BytesIO("é\n\nb\r\nc".encode()), "x")) == ["é", "", "b", "c"]
    assert list(lines(io.BytesIO(b""), "x")) == []


def test_a_byte_order_mark_is_no_text():
    assert list(lines(io.BytesIO("\ufeffa\n\ufeffb\n".encode()), "x")) == ["a", "\ufeffb"]


@pytest.mark.bad_input
def test_bytes_that_are_no_utf8_are_named_by_line():
    with pytest.raises(UserError, match=r"a\.txt, line 2: byte 1 .*0xff.* UTF-8"):
        list(lines(io.BytesIO(b"fine\n\xff\xfe\n"), "a.txt"))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_as_many_lines_are_read_as_were_written(texts: list[str]):
    written = "".join(breaks_shown(text) + "\n" for text in texts)
    expected = [breaks_shown(text) for text in texts]
    if expected:
        expected[0] = expected[0].removeprefix("\ufeff")
    assert list(lines(io.BytesIO(written.encode()), "x")) == expected


def test_line_breaks_inside_an_answer_are_shown():
    assert breaks_shown("a\nb\r\nc\rd") == "a⏎b⏎c⏎d"


def test_on_a_terminal_no_answer_moves_the_cursor_and_a_pipe_gets_it_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
):
    for is_terminal, written in ((True, r"a\x1b[2Jb"), (False, "a\x1b[2Jb")):
        out = io.StringIO()
        monkeypatch.setattr(out, "isatty", lambda is_terminal=is_terminal: is_terminal)
        monkeypatch.setattr("sys.stdout", out)
        with sink(None) as outgoing:
            outgoing.write("a\x1b[2Jb")
            outgoing.flush()
        assert out.getvalue() == written


def test_an_output_file_appears_when_it_is_complete(tmp_path: Path):
    file = tmp_path / "out.txt"
    file.write_text("before")
    with sink(file) as out:
        out.write("é\n")
        assert file.read_text() == "before"
    assert file.read_bytes() == "é\n".encode()

    def stop_half_way():
        with sink(file) as out:
            out.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_half_way()
    assert file.read_bytes() == "é\n".encode()
    assert list(tmp_path.iterdir()) == [file]


def test_answers_are_utf8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch):
    terminal = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(terminal, encoding="ascii"))
    with sink(None) as file:
        file.write("é中")
        file.flush()
    assert terminal.getvalue() == "é中".encode()


@pytest.mark.bad_input
@pytest.mark.parametrize("ending", [*COLUMNS, *UNPACKED_BY, ".CSV", ".jsonl.gz"])
def test_a_file_that_is_no_lines_of_text_is_not_read_as_such(ending: str):
    with pytest.raises(UserError, match=r"is packed: type|has columns, .*generate run=r < 'my f"):
        check_lines(Path(f"my file{ending}"), "python -m generate run=r")


def test_lines_of_text_have_any_other_name():
    for name in ("a", "a.txt", "a.en", "a.csv.txt", "two_texts.tsv"):
        check_lines(Path(name), "x")
    check_lines(Path("a.jsonl"), "x", allowed=(".jsonl",))


@pytest.mark.bad_input
def test_files_that_cannot_be_opened_are_named(tmp_path: Path):
    with (
        pytest.raises(UserError, match=r"can't read input=.*nothing"),
        source(tmp_path / "nothing"),
    ):
        pass
    with pytest.raises(UserError, match=r"can't write output=.*no/f"), sink(tmp_path / "no" / "f"):
        pass
