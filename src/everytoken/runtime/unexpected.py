"""Errors that nobody expected, those of the user's own code above all: told in one line.

The traceback isn't lost: it is kept in the run directory, and log_level=debug shows it.
"""

import sys
import sysconfig
import traceback
from contextlib import suppress
from pathlib import Path

from everytoken.errors import one_line
from everytoken.runtime.console import level
from everytoken.runtime.files import write_whole
from everytoken.runtime.world import global_rank

ENGINE = str(Path(__file__).resolve().parents[1])
LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))

TRACEBACK = "traceback.txt"
"""In the run directory; of other ranks than the first, with their number."""

LONGEST = 400
"""Characters of what an error says; some say the whole of a tensor."""


def in_short(error: BaseException) -> str:
    """What an error says, its type unless that says nothing, and where in the user's own code."""
    said = one_line(error, LONGEST)
    says_it = isinstance(error, ValueError | TypeError | OSError | ImportError) or not str(error)
    return f"{'' if says_it else f'{type(error).__name__}: '}{said}{where(error)}"


def kept(error: BaseException, folder: Path | None) -> str:
    """The same, and where the traceback is.

    Args:
        error: it.
        folder: of the run, if there is one, in which to keep it.
    """
    show_if_asked(error)
    found = "log_level=debug shows the traceback"
    if folder is not None and folder.is_dir():
        rank = global_rank()
        file = folder / (f"traceback-{rank}.txt" if rank else TRACEBACK)
        with suppress(OSError):
            write_whole(file, "".join(traceback.format_exception(error)))
            found = f"the traceback is in {_short(file)}"
    return f"{in_short(error)}; {found}"


def show_if_asked(error: BaseException | None) -> None:
    """Print the traceback, if log_level=debug."""
    if error is not None and level() == "debug":
        traceback.print_exception(error, file=sys.stderr)


def where(error: BaseException) -> str:
    """The innermost line of code that is neither the engine's nor a library's, or ""."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((ENGINE, *LIBRARIES, "<"))]
    if not own:
        return ""
    return f" ({_short(Path(own[-1].filename))}:{own[-1].lineno} in {own[-1].name})"


def _short(file: Path) -> Path:
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
