"""Errors that are printed in one line, exit codes, and the checks of a single value."""

import difflib
import math
from collections.abc import Iterable

FAILURE = 1
"""Exit code of a run that broke: by an exception, a dead rank, a NaN, a full disk."""

BAD_INPUT = 2
"""Exit code of what is refused as it was typed, by a `UserError`."""

TIME_LIMIT = 124
"""Exit code after `trainer.time_limit`, as timeout(1) uses it."""

HUNG_UP = 129
"""Exit code after SIGHUP, as shells use it; the others below too."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

PREEMPTED = 138
"""Exit code after SIGUSR1, and after SIGUSR2, which submitit uses: a cluster wants its machines."""

TERMINATED = 143
"""Exit code after SIGTERM."""


class ShownError(Exception):
    """What is shown as one line, without a traceback.

    Args:
        message: the line. Around that of an error in a loader process torch puts its traceback.
    """

    def __init__(self, message: str = "") -> None:
        around, name, own = message.rpartition(f"{__name__}.{type(self).__name__}: ")
        super().__init__(own.strip() if name and around.startswith("Caught ") else message)


class UserError(ShownError):
    """A mistake in a command, a config or data: shown as one line, without a traceback.

    The message says what is wrong, with the value, and what to do.
    """

    exit_code = BAD_INPUT


class BrokenRunError(UserError):
    """A run that was begun well and can't go on, by a NaN or a full disk: shown likewise."""

    exit_code = FAILURE


class RunError(ShownError):
    """A process that this one needs is gone: shown as one line, without a traceback."""


MOST_WHOLE = 2**63
"""Whole numbers are below this, as those of torch and numpy are."""


def check_number(
    key: str,
    value: object,
    kind: type[int] | type[float],
    *,
    low: float,
    below: float = math.inf,
    most: float = math.inf,
    optional: bool = False,
) -> None:
    """Refuse a value that is no number or out of range.

    Args:
        key: the setting's name, for the message.
        value: what it is set to.
        kind: int for a whole number.
        low: the least one.
        below: what all are smaller than.
        most: the largest one.
        optional: True if null will do too.

    Raises:
        UserError: with the range.
    """
    if value is None and optional:
        return
    types = int if kind is int else int | float
    if isinstance(value, int) and value >= MOST_WHOLE:
        most = min(most, MOST_WHOLE - 1)
    within = isinstance(value, types) and low <= value < below and value <= most
    if within and not isinstance(value, bool):
        return
    limits = (("below", below), ("at most", most))
    upper = "".join(f" and {word} {limit:,}" for word, limit in limits if limit < math.inf)
    null = " or null" if optional else ""
    noun = "a whole number" if kind is int else "a number"
    raise UserError(f"{key} must be {noun} of at least {low:g}{upper}{null}, got {value!r}")


def check_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        UserError: with the choices.
    """
    if value not in choices:
        raise UserError(f"{key} must be one of {', '.join(choices)}, got {value!r}")


def nearest(word: str, known: Iterable[str]) -> str:
    """ "nearest are …": what may have been meant; some that there are, if nothing is like it."""
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.4)
    return f"nearest are {', '.join(near or names[:3])}"


def one_line(error: object, longest: int | None = None) -> str:
    """What an error says, in one line; the name of its type if it says nothing.

    Args:
        error: whose text may have several lines, as those of libraries do.
        longest: characters after which it is cut off.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {error.msg}"[:longest]
    return (" ".join(str(error).split()) or type(error).__name__)[:longest]
