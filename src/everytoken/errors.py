"""The error that a user can mend, and exit codes."""

BAD_INPUT = 2
"""Exit code after a `UserError`."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it."""


class UserError(Exception):
    """A mistake in a command, a config or data: shown as one line, without a traceback.

    The message says what is wrong, with the value, and what to do.
    """
