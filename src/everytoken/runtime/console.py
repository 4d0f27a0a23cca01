"""What the user reads: one console, on which rank 0 speaks for all, as much as `log_level` allows.

What may take long is watched: on a terminal it is a bar, elsewhere (a file, a batch job) a line now
and then.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from everytoken.runtime.visible import visible
from everytoken.runtime.world import global_rank

SECONDS_BEFORE_BAR = 2.0
SECONDS_BETWEEN_LINES = 10.0

LEVELS = ("info", "warning", "debug")
"""Values of `log_level`: what this project says; only what warns; what libraries say too."""

PACKAGE = __name__.partition(".")[0]

LEVEL = f"{PACKAGE.upper()}_LOG_LEVEL"
"""Where it is kept: in the environment, so that processes which this one starts keep to it too."""

WIDTH = 160
"""Columns where nobody has decided them: a file has no edge."""

INDENT = "  "
"""Begins a line that is to be copied, a command say: it is never broken."""

Value = TypeVar("Value")


class SafeConsole(Console):
    """A console on which no text of the user's data can move the cursor."""

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich, of the text as it can be seen."""
        return super().render_str(visible(text), **options)


console = SafeConsole(
    highlight=False,
    markup=False,
    soft_wrap=True,
    width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH,
)


def set_level(level: str) -> None:
    """Obey a `log_level`, in this process and in those that it starts."""
    os.environ[LEVEL] = level
    hear_others()


def level() -> str:
    """The `log_level` that was set."""
    return os.environ.get(LEVEL, LEVELS[0])


def hear_others() -> bool:
    """True if `log_level` is debug: what libraries log is then shown, on all ranks."""
    if level() != "debug":
        return False
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    logging.getLogger("lightning").propagate = False  # it has a handler of its own
    return True


def is_checkout() -> bool:
    """True in a clone, false where the package was installed from its wheel."""
    return (Path(__file__).resolve().parents[2] / "train.py").is_file()


def invoked(command: str) -> str:
    """How a command is called here: `python -m train` in a checkout, else its installed script."""
    return f"python -m {command}" if is_checkout() else f"{PACKAGE}-{command}"


def install(extra: str) -> str:
    """How an extra is installed here."""
    option, place = ("-e ", ".") if is_checkout() else ("", PACKAGE)
    return f'pip install {option}"{place}[{extra}]"'


def log(message: RenderableType) -> None:
    """Tell, on rank 0 only."""
    if global_rank() == 0 and level() != "warning":
        _print(message)


def warn(message: str) -> None:
    """Tell what the user should know at any level, on rank 0 only."""
    if global_rank() == 0:
        _print(Text.assemble(("warning", "bold yellow"), visible(f": {message}")))


def _print(message: RenderableType) -> None:
    """On a terminal lines are broken between words, but for those that begin with INDENT."""
    if isinstance(message, str):
        message = Text(visible(message))
    lines = message.split("\n", allow_blank=True) if isinstance(message, Text) else [message]
    for line in lines:
        is_whole = isinstance(line, Text) and line.plain.startswith(INDENT)
        console.print(line, soft_wrap=is_whole or not console.is_terminal)


def fields(parts: Iterable[str]) -> str:
    """Parts of a line beside each other, on a terminal in as many lines as they need."""
    lines: list[str] = []
    for part in parts:
        longer = f"{lines[-1]}  {part}" if lines else part
        if lines and console.is_terminal and cell_len(longer) > console.width:
            lines.append(INDENT + part)
        else:
            lines[-1:] = [longer]
    return "\n".join(lines)


@contextmanager
def beside_output() -> Iterator[None]:
    """Speak on standard error, for standard output is for what was asked for."""
    console.stderr = True
    try:
        yield
    finally:
        console.stderr = False


class Watch:
    """Shows how far something is while it goes on, if it takes long.

    A context manager; or call `start` and `stop`. Of several on a terminal all are seen, and
    elsewhere the one that was started last.

    Args:
        what: is going on.
        done: how much of it is done, asked now and then from another thread; None if nobody knows.
        total: how much there is; None if nobody knows.
        unit: of both.
    """

    def __init__(
        self,
        what: str,
        done: Callable[[], int] | None = None,
        total: int | None = None,
        unit: str = "",
    ) -> None:
        self.what = what
        self.unit = unit and f" {unit}"
        self.done = done
        self.total = total
        self.values: list[str] = []
        """To be shown beside it."""
        self.began = self.first = 0.0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """From now on."""
        if global_rank() == 0 and level() != "warning":
            self.began = time.monotonic()
            self.first = self.done() if self.done else 0
            self._thread = threading.Thread(target=self._tell, daemon=True)
            _open.append(self)
            self._thread.start()

    def stop(self) -> None:
        """It is over, well or not."""
        if self in _open:
            _refresh()  # or a bar ends a step before the last
            self._over.set()
            assert self._thread is not None
            self._thread.join()
            _open.remove(self)
            _hide()

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _tell(self) -> None:
        if console.is_terminal:
            if not self._over.wait(SECONDS_BEFORE_BAR):
                _show()
            return
        while not self._over.wait(SECONDS_BETWEEN_LINES):
            if self is _open[-1]:
                log("  ".join([self.what, *self.state(), *self.values]))

    def state(self) -> list[str]:
        """How far it is."""
        seconds = time.monotonic() - self.began
        if self.done is None:
            return [in_words(seconds)]
        done = self.done()
        of = "" if self.total is None else f" of {self.total:,}"
        rate = (done - self.first) / seconds
        shown = [f"{done:,}{of}{self.unit}"]
        shown.append(f"{rate:,.0f}/s" if rate >= 10 or not rate else f"{rate:.2g}/s")
        if self.total is not None and rate:
            shown.append(f"{in_words((self.total - done) / rate)} left")
        return shown


def watched(
    values: Iterable[Value], what: str, done: Callable[[], int], total: int | None, unit: str
) -> Generator[Value]:
    """The values, one after the other, while it is shown how far that is; see `Watch`."""
    with Watch(what, done, total, unit):
        yield from values


_open: list[Watch] = []
_live: list[Live] = []
"""The bars, if there are any."""
_lock = threading.Lock()


def _show() -> None:
    with _lock:
        if not _live:
            _live.append(Live(console=console, get_renderable=_bars, transient=True))
            _live[0].start()


def _hide() -> None:
    with _lock:
        if _live and not _open:
            _live.pop().stop()


def _refresh() -> None:
    with _lock:
        if _live:
            _live[0].refresh()


def _bars() -> Group:
    now = time.monotonic()
    shown = [watch for watch in _open if now - watch.began > SECONDS_BEFORE_BAR]
    widest = max((cell_len(watch.what) for watch in shown), default=0)
    return Group(*(_bar(watch, widest, now - watch.began) for watch in shown))


def _bar(watch: Watch, width: int, seconds: float) -> Group:
    """A bar with what it is of and how far that is; its values beside it or, if need be, below."""
    done = watch.done() if watch.done and watch.total else 0
    state, values = watch.state(), watch.values
    beside = "  ".join([*state, *values])
    below: list[Text] = []
    if values and width + 22 + cell_len(beside) > console.width:
        beside, below = "  ".join(state), [Text(fields([INDENT + values[0], *values[1:]]))]
    room = max(4, min(20, console.width - width - 2 - cell_len(beside)))
    bar = ProgressBar(watch.total, done, width=room, pulse=not watch.total, animation_time=seconds)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=width)
    grid.add_row(watch.what, bar, Text(beside, no_wrap=True, overflow="ellipsis"))
    return Group(grid, *below)


def in_words(seconds: float) -> str:
    """A time in two units at most."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
