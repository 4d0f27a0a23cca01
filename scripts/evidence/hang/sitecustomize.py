"""What befalls one rank at one moment of its life; Python runs this first where it is on the path.

HANG says it, as MOMENT:HOW:RANK, and HANG_MARK names the file that says it has happened: it does
so once. Whoever else starts Python here is left alone.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

MOMENT, HOW, RANK = os.environ.get("HANG", "::").split(":")

STEPS = {"step": "training_step", "validation": "validation_step", "test": "test_step"}
PHASES = {"claim": "choosing", "prepare": "preparing", "save": "saving"}


def strike() -> None:
    """Now."""
    mark = Path(os.environ["HANG_MARK"])
    try:
        with mark.open("x") as file:
            file.write(f"{os.getpid()} {time.monotonic()}")
    except FileExistsError:
        return
    if HOW == "cut":
        subprocess.run(["ip", "link", "set", "eth0", "down"], check=True)
    else:
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[HOW])


def struck(function: Callable[..., Any], calls: int = 1) -> Callable[..., Any]:
    """The same function, which begins with it when it is called for the so manieth time."""
    count = 0

    def first(*arguments: Any, **settings: Any) -> Any:
        nonlocal count
        count += 1
        if count == calls:
            strike()
        return function(*arguments, **settings)

    return first


def lie_in_wait() -> None:
    """Until the moment comes."""
    from everytoken.runtime import rendezvous, together

    meet, store_of, begin = rendezvous.meet, rendezvous.store_of, together.Work.begin

    def when_met(seconds: float) -> None:
        meet(seconds)
        with suppress(ImportError):  # the agreement on a run comes before all that
            from everytoken.training.module import TokenModule

            name = STEPS[MOMENT]
            setattr(TokenModule, name, struck(getattr(TokenModule, name), 3))

    def when_joined(here: Any) -> Any:
        joined = store_of(here)
        strike()
        return joined

    def when_at_work(what: str) -> Any:
        work = begin(what)
        if what.startswith(PHASES[MOMENT]):
            strike()
        return work

    if MOMENT == "start":
        strike()
    elif MOMENT == "rendezvous":
        rendezvous.store_of = when_joined
    elif MOMENT in PHASES:
        together.Work.begin = when_at_work
    else:
        rendezvous.meet = when_met


if MOMENT and os.environ.get("RANK") == RANK:
    lie_in_wait()
