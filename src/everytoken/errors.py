"""The errors that are told in one line, and all exit codes."""

FAILURE = 1
"""Exit code of a run that broke, by an exception or a dead rank."""

BAD_INPUT = 2
"""Exit code after a `UserError`."""

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


class UserError(Exception):
    """A mistake in a command, a config or data: shown as one line, without a traceback.

    The message says what is wrong, with the value, and what to do.
    """


class RunError(Exception):
    """A process that this one needs is gone: shown as one line, without a traceback."""
