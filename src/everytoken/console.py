"""What the user reads: one console, on which rank 0 speaks for all."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from lightning.fabric.utilities.rank_zero import rank_zero_only
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BEFORE_BAR = 2.0
SECONDS_BETWEEN_LINES = 10.0

Value = TypeVar("Value")

console = Console(highlight=False, markup=False, soft_wrap=True)


@rank_zero_only
def say(message: RenderableType) -> None:
    """Print, on rank 0 only."""
    console.print(message)


def watched(
    values: Iterable[Value], what: str, done: Callable[[], int], total: int | None
) -> Iterator[Value]:
    """The values, one after the other; what takes long is shown: a bar, or a line now and then.

    Args:
        values: made while they are asked for.
        what: is going on.
        done: how much of it is done.
        total: how much there is; None if nobody knows.
    """
    bar: Progress | None = None
    started = shown = time.monotonic()
    try:
        for value in values:
            yield value
            now = time.monotonic()
            if bar is not None:
                bar.update(bar.task_ids[0], completed=done())
            elif console.is_terminal and now - started > SECONDS_BEFORE_BAR:
                bar = _bar(what, done(), total)
            elif not console.is_terminal and now - shown > SECONDS_BETWEEN_LINES:
                shown = now
                of = "" if total is None else f" of {total:,}"
                say(f"{what}  {done():,}{of}  {done() / (now - started):,.0f}/s")
    finally:
        if bar is not None:
            bar.stop()


@rank_zero_only
def _bar(what: str, done: int, total: int | None) -> Progress:
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    bar = Progress(TextColumn(what), *columns, console=console, transient=True)
    bar.add_task("", total=total, completed=done)
    bar.start()
    return bar
