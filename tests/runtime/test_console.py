"""What the user reads: as much as asked for, from rank 0, and how far it is while it takes long."""

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Group
from rich.table import Table

from everytoken.runtime import console as consoles
from everytoken.runtime.console import (
    SafeConsole,
    Watch,
    beside_output,
    in_words,
    log,
    warn,
    watched,
)
from everytoken.runtime.redact import print_error
from support.helpers import run, wait_until


@pytest.fixture(autouse=True)
def level_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(consoles.LEVEL, "info")


# How much is told


def speak() -> None:
    log("a line")
    warn("mind this")


@pytest.mark.parametrize(
    ("level", "told"),
    [
        ("info", "a line\nwarning: mind this\n"),
        ("warning", "warning: mind this\n"),
        ("debug", "a line\nwarning: mind this\n"),
    ],
)
def test_a_level_decides_what_is_told(
    level: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(consoles.LEVEL, level)
    speak()
    assert capsys.readouterr().out == told


def test_other_ranks_are_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(consoles, "SECONDS_BETWEEN_LINES", 0.01)
    speak()
    with Watch("reading"):
        time.sleep(0.05)
    assert capsys.readouterr().out == ""


def test_where_the_output_is_an_answer_it_is_told_beside_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with beside_output():
        speak()
    log("again")
    assert capsys.readouterr() == ("again\n", "a line\nwarning: mind this\n")


LIBRARY = """
import logging, subprocess, sys
from everytoken.runtime.console import hear_others, set_level
set_level(sys.argv[1])
child = "import logging; from everytoken.runtime.console import hear_others; hear_others(); "
said = "logging.getLogger('library').info('of no interest')"
subprocess.run([sys.executable, "-c", child + said])
eval(said)
"""


@pytest.mark.parametrize(("level", "times"), [("info", 0), ("debug", 2)])
def test_libraries_are_heard_when_debugging_in_all_processes(level: str, times: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY, level], capture_output=True, text=True, check=True
    )
    assert done.stderr.count("library: of no interest\n") == times


LOUD = """
import logging
from everytoken.corpora.dates import Dates

logging.getLogger("loud").info("of no interest")
"""


@pytest.mark.parametrize(("level", "told"), [("info", []), ("debug", ["loud: of no interest"])])
def test_hydra_gives_libraries_no_voice(
    level: str, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loud.py").write_text(LOUD)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    # One that is refused after the corpus was looked up.
    wrong = ("precision=fp16", "optimizer.fused=true")
    words = ("data.corpus._target_=loud.Dates", *wrong, f"log_level={level}")
    done = run(tmp_path, "train", *words)
    assert done.stdout == ""
    assert done.stderr.splitlines()[:-1] == told


def test_in_a_file_a_table_may_be_wide() -> None:
    columns = "['a column of thirty characters'] * 4"
    code = "from everytoken.runtime.console import log; from rich.table import Table"
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; log(Table(*{columns}))"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("a column of thirty characters") == 4


# While it takes long


def test_what_is_quick_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(watched(range(5), "reading", lambda: 0, 5, "records")) == [*range(5)]
    assert capsys.readouterr().out == ""


def test_what_takes_long_is_told_in_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consoles, "SECONDS_BETWEEN_LINES", 0.05)
    found: list[int] = []
    lines: list[str] = []
    for value in watched(range(5), "reading", lambda: 1000 * len(found), 5000, "records"):
        found.append(value)
        more = len(lines) + 2  # one of them may be of before
        wait_until(lambda more=more: len(add_lines(lines, capsys)) >= more)
    assert found == [*range(5)]
    assert re.fullmatch(r"reading  5,000 of 5,000 records  [\d,]+/s  \d s left", lines[-1])


def add_lines(lines: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines.extend(capsys.readouterr().out.splitlines())
    return lines


@pytest.mark.parametrize(
    ("watch", "state"),
    [
        (Watch("saving"), "8 s"),
        (Watch("reading", lambda: 24), "24  3/s"),
        (Watch("reading", lambda: 24_000, unit="texts"), "24,000 texts  3,000/s"),
        (Watch("training", lambda: 24, 60, "steps"), "24 of 60 steps  3/s  12 s left"),
        (Watch("training", lambda: 0, 60, "steps"), "0 of 60 steps  0/s"),
    ],
)
def test_how_far_it_is(watch: Watch, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watch.began = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: 108.0)
    assert "  ".join(watch.state()) == state


def test_what_was_done_before_makes_it_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch("training", lambda: 1008, 1016, "steps")
    watch.began, watch.first = 100.0, 1000
    monkeypatch.setattr(time, "monotonic", lambda: 108.0)
    assert watch.state() == ["1,008 of 1,016 steps", "1/s", "8 s left"]


def test_lines_tell_of_the_innermost_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consoles, "SECONDS_BETWEEN_LINES", 0.02)
    lines: list[str] = []
    with Watch("training"), Watch("validating"):
        capsys.readouterr()  # what was told before the second was there
        wait_until(lambda: len(add_lines(lines, capsys)) >= 4)
    assert {line.split()[0] for line in lines} == {"validating"}


ERASED = "\x1b[2K\x1b[?25h\r"
"""The last line, and then the cursor is shown again."""


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    file = io.StringIO()
    monkeypatch.setattr(consoles, "console", SafeConsole(file=file, force_terminal=True, width=80))
    monkeypatch.setattr(consoles, "SECONDS_BEFORE_BAR", 0.02)
    return file


VALUES = ["epoch 12.34", "loss 1.234", "accuracy 0.912", "12,345 real tokens/s", "fill 0.98"]


def drawn(watch: Watch, width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of a bar a hundred seconds after it began, on a terminal of that width."""
    file = io.StringIO()
    terminal = SafeConsole(file=file, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(consoles, "console", terminal)
    watch.began = time.monotonic() - 100
    monkeypatch.setattr(consoles, "_open", [watch])
    terminal.print(consoles._bars())
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize(("width", "lines"), [(60, 3), (80, 2), (110, 2), (160, 1)])
def test_a_bar_shows_all_of_its_values_however_narrow_the_terminal(
    width: int, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch("training", lambda: 120, 600, "steps")
    watch.values = VALUES
    shown = drawn(watch, width, monkeypatch)
    assert len(shown) == lines
    assert max(map(len, shown)) <= width
    for value in ("120 of 600 steps", "s left", *VALUES):
        assert value in "\n".join(shown)


def test_a_bar_ends_at_what_was_done(terminal: io.StringIO) -> None:
    done = 29
    with Watch("training", lambda: done, 30, "steps"):
        wait_until(lambda: "29 of 30" in terminal.getvalue())
        done = 30
    assert terminal.getvalue().rindex("30 of 30") > terminal.getvalue().rindex("29 of 30")


LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"


def test_at_a_terminal_lines_break_between_words_but_for_commands(terminal: io.StringIO) -> None:
    command = "  python -m generate " + "x" * 80
    log(f"{LONG}\n{command}")
    warn(LONG)
    lines = plain(terminal).splitlines()
    assert command in lines
    prose = [line for line in lines if line != command]
    assert max(map(len, prose)) <= 80
    assert " ".join(" ".join(prose).split()) == f"{LONG} warning: {LONG}"


def test_errors_break_between_words_at_a_terminal_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for is_terminal in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda answer=is_terminal: answer)
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("COLUMNS", "80")
        print_error(f"{LONG} [bold]{LONG}[/bold]")
        lines = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue()).splitlines()
        assert (max(map(len, lines)) <= 80) == is_terminal
        assert " ".join(" ".join(lines).split()) == f"error: {LONG} [bold]{LONG}[/bold]"


def test_parts_of_a_line_stay_whole(terminal: io.StringIO) -> None:
    parts = [f"val/metric_{number} 0.{number}" for number in range(9)]
    lines = consoles.fields(parts).splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= 80
    assert [part for line in lines for part in line.strip().split("  ")] == parts


def test_in_a_file_lines_are_as_long_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    log(LONG)
    assert consoles.fields(["x" * 100, "y" * 100]).count("\n") == 0
    assert capsys.readouterr().out == f"{LONG}\n"


HOSTILE = "ok\x1b[2J\x1b]0;title\x07\x9b31m\r\u202eback"


def test_what_would_drive_a_terminal_is_shown_instead(
    terminal: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Table("text")
    table.add_row(HOSTILE)
    log(HOSTILE)
    log(Group(HOSTILE, table))
    warn(HOSTILE)
    print_error(HOSTILE)
    shown = plain(terminal) + capsys.readouterr().err
    assert shown.count(r"ok\x1b[2J\x1b]0;title\x07\x9b31m\x0d\u202eback") == 5
    assert not set(shown) & set("\x1b\x07\x9b\r\u202e")


def plain(terminal: io.StringIO) -> str:
    """What stands on the terminal, without the colours that we gave it."""
    return re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())


def test_at_a_terminal_they_are_bars_that_leave_no_trace(terminal: io.StringIO) -> None:
    with Watch("training", lambda: 2, 3, "steps"), Watch("validating"):
        words = ("training", "2 of 3 steps", "validating")
        wait_until(lambda: all(word in terminal.getvalue() for word in words))
        log("a line between")
    assert "a line between" in terminal.getvalue()
    assert terminal.getvalue().endswith(ERASED)


def test_at_a_terminal_what_is_quick_is_not_shown(
    terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consoles, "SECONDS_BEFORE_BAR", 30)
    with Watch("reading"):
        pass
    assert terminal.getvalue() == ""


def test_a_bar_ends_with_what_it_shows_however_that_ends(terminal: io.StringIO) -> None:
    watch = watched(range(9), "reading", lambda: 0, None, "")
    next(watch)
    wait_until(lambda: "reading" in terminal.getvalue())
    with pytest.raises(KeyboardInterrupt):
        watch.throw(KeyboardInterrupt())
    assert terminal.getvalue().endswith(ERASED)
    assert not consoles._open
    assert not consoles._live


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (7290, "2 h 1 min")],
)
def test_times(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
