"""What is typed: one thin file for each command, run by `python -m` or by an installed script."""

import sys
from types import TracebackType


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while a command is being imported needs no traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print("left at once (Ctrl-C)", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _end
