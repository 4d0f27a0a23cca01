"""Commands of this package in forks of one process: each starts at once, and none can harm another.

What takes seconds, importing torch and Lightning, is done before the first fork.
"""

import faulthandler
import os
import re
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import everytoken.commands.evaluate
import everytoken.commands.export
import everytoken.commands.generate
import everytoken.commands.train  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
TRACEBACK = "Traceback (most recent call last)"
_FRAME = re.compile(r'File ".*?([^/"]+)", (line \d+ in \w+)')
DIVERGED = "error: the gradient's norm is"
"""A learning rate that is far too large, say: what was asked for has been done."""


@dataclass(frozen=True)
class Outcome:
    """What became of a command."""

    words: tuple[str, ...]
    code: int | None
    """Exit code; None if it had to be killed."""
    out: str
    err: str
    seconds: float

    @property
    def fault(self) -> str | None:
        """What a user must never meet: a hang, a traceback, a refusal that isn't one line."""
        if self.code is None:
            last = self.err.rpartition("most recent call first")[2]  # the main thread's
            where = ", ".join(f"{file} {line}" for file, line in _FRAME.findall(last)[:8])
            return f"not done after {self.seconds:.0f} s" + (where and f", in {where}")
        text = self.out + self.err
        if TRACEBACK in text:
            return "a traceback: " + text.strip().splitlines()[-1]
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        diverged = self.code == 1 and any(line.startswith(DIVERGED) for line in errors)
        if (self.code == 2 or diverged) and len(errors) != 1:
            return f"exit code {self.code} with {len(errors)} lines that say why"
        if self.code not in (0, 2) and not diverged:
            return f"exit code {self.code}: {(errors or self.err.splitlines() or ['no word'])[-1]}"
        return None


def call(words: tuple[str, ...], folder: Path, limit: float, given: str = "") -> Outcome:
    """Run a command, as `python -m WORDS` or, if it begins with a path, `python WORDS`.

    Args:
        words: the command and its arguments.
        folder: where it runs, and where its output is kept for a moment.
        limit: seconds after which it is killed, with the processes that it started.
        given: its standard input.
    """
    files = [folder / f".{name}" for name in ("in", "out", "err")]
    files[0].write_text(given, encoding="utf-8")
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.setsid()  # so that all of its processes can be killed
        _become(lambda: _main(words), folder, files, limit)
    code = _wait(child, limit)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    out, err = (file.read_text(encoding="utf-8", errors="replace") for file in files[1:])
    return Outcome(words, code, out, err, time.perf_counter() - started)


def _main(words: tuple[str, ...]) -> None:
    sys.argv = list(words)
    if words[0].endswith(".py"):
        sys.argv[0] = str(ROOT / words[0])
        sys.path.insert(0, str(Path(sys.argv[0]).parent))
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def _become(main: Callable[[], None], folder: Path, files: list[Path], limit: float) -> None:
    code = 1
    try:
        os.chdir(folder)
        flags = (os.O_RDONLY, *2 * [os.O_WRONLY | os.O_CREAT | os.O_TRUNC])
        for number, (file, flag) in enumerate(zip(files, flags, strict=True)):
            os.dup2(os.open(file, flag, 0o644), number)
        # Whoever called may have put others in their places.
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 (until the end)
            for number, mode in enumerate(("r", "w", "w"))
        )
        faulthandler.dump_traceback_later(0.9 * limit, file=sys.stderr)  # where it hangs
        main()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:  # as Python itself does at the end of a program
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(child: int, limit: float) -> int | None:
    """Its exit code, as a shell gives it; None if it was killed for taking too long."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
