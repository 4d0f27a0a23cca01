"""How ranks meet, whoever started them, and miss each other.

They meet as torch's process group, which Lightning then uses.
"""

import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from everytoken.errors import RunError, UserError
from everytoken.runtime.console import level, warn
from everytoken.runtime.store import SECONDS, TRY_SECONDS, is_shared, store_of
from everytoken.runtime.within import within
from everytoken.runtime.world import World, global_rank, may_restart, world

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

Given = TypeVar("Given")

MISSED = {
    "connection (closed|reset) by peer": "lost",  # who has printed why
    "timed out (waiting|after)": "waited trainer.hang_timeout seconds for",
}
"""What torch says when another rank is gone, and what this one has done."""


@dataclass
class Meeting:
    """Ranks that have met."""

    store: "Store"
    """What all can read and write; rank 0's must live as long as the ranks."""
    rank: int
    """This one."""
    size: int
    wait_seconds: float
    """How long a rank may keep the others waiting."""
    host: str
    """Rank 0's machine, which nobody could ask for when it is gone."""

    def named(self, rank: int) -> str:
        """A rank and its machine, in words."""
        host = self.store.get(_host_key(rank)).decode() if rank else self.host
        return f"rank {rank} on {host}"

    def ask(self, question: Callable[["Store"], Given]) -> Given:
        """What the store answers.

        Raises:
            RunError: rank 0, whose store it is, is gone or hangs.
        """
        try:
            return within(self.wait_seconds, lambda: question(self.store))
        except TimeoutError as error:
            waited = f"{self.wait_seconds:g} seconds (trainer.hang_timeout)"
            raise RunError(
                f"rank {self.rank} stops, for {self.named(0)} has answered nothing for {waited}"
            ) from error
        except RuntimeError as error:
            raise RunError(f"rank {self.rank} stops, for {self.named(0)} is gone") from error


_meetings: list[Meeting] = []


def met() -> Meeting | None:
    """The ranks with which this one has met; None before that, or in a process without others."""
    return _meetings[-1] if _meetings else None


def meet(wait_seconds: float) -> None:
    """Make the process group of the ranks, once; nothing in a process without others.

    Args:
        wait_seconds: how long a rank may keep the others waiting from then on.

    Raises:
        UserError: they don't find each other.
        RunError: the same, of ranks that torchrun starts again.
    """
    here = world()
    if here is None:
        return
    hush()
    from torch import distributed  # only here: it takes seconds

    if distributed.is_initialized():
        return
    stores: list[Store] = []
    try:
        _meetings.append(within(SECONDS, lambda: _meeting(here, wait_seconds, stores)))
    except (RuntimeError, OSError) as error:
        said = str(error).splitlines()[0]
        line = (
            f"rank {here.rank} on {socket.gethostname()} can't meet {_missing(here, stores)} "
            f"({said}): is each of them started, and can they reach each other?"
        )
        raise (RunError if may_restart() else UserError)(line) from error
    if may_restart() and is_shared():
        warn(
            "a machine that is lost can't join again, for torchrun mixes up its starts (pytorch "
            "issue 135712): set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun"
        )


def _meeting(here: World, wait_seconds: float, stores: list["Store"]) -> Meeting:
    """Of all ranks; the store is in the list from when it is there."""
    from torch import cuda, distributed  # only here: it takes seconds

    store = store_of(here)
    stores.append(store)
    store.set(_host_key(here.rank), socket.gethostname())
    store.set(beat_key(here.rank), "0")
    host = store.get(_host_key(0)).decode()
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda.is_available() else "gloo",
        store=store,
        rank=here.rank,
        world_size=here.size,
        timeout=timedelta(seconds=wait_seconds),
    )
    return Meeting(store, here.rank, here.size, wait_seconds, host)


def _missing(here: World, stores: list["Store"]) -> str:
    """Which ranks haven't come to a meeting, as far as one can know."""
    absent = [0] if here.rank else []
    with suppress(RuntimeError, TimeoutError):
        keys = {rank: _host_key(rank) for rank in range(here.size)}
        check = lambda store: [r for r, key in keys.items() if not store.check([key])]  # noqa: E731
        absent = within(TRY_SECONDS, lambda: check(stores[0])) if stores else absent
    return "rank " + ", ".join(map(str, absent)) if absent else f"the other ranks of {here.size}"


def hush() -> None:
    """Let torch, which isn't imported yet, print no stacks of C++ if another rank is gone."""
    if level() != "debug":
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def missed(error: BaseException) -> RunError | None:
    """What an error says of other ranks, in a line that names them; None if it says nothing."""
    for said, meaning in MISSED.items():
        if re.search(said, f"{error} {error.__cause__}", re.IGNORECASE | re.DOTALL):
            return RunError(
                f"rank {global_rank()} stops, for it has {meaning} {lost() or 'another rank'}"
            )
    return None


def lost() -> str:
    """Which ranks don't answer any more, and on which machine they were, once one was missed.

    All that are left ask at about the same time. "" if all answer, or there is nobody to ask.
    """
    here = met()
    if here is None:
        return ""
    try:
        return within(2 * TRY_SECONDS, lambda: ", ".join(map(here.named, _silent(here))))
    except (RuntimeError, TimeoutError):  # the store was rank 0's
        return here.named(0)


def _silent(here: Meeting) -> list[int]:
    """Ranks that don't say that they are there."""
    store = here.store
    store.set_timeout(timedelta(seconds=TRY_SECONDS))
    store.set(_alive_key(here.rank), "")
    keys = {rank: _alive_key(rank) for rank in range(here.size)}
    until = time.monotonic() + TRY_SECONDS
    while time.monotonic() < until and not store.check([*keys.values()]):
        time.sleep(0.2)
    return [rank for rank, key in keys.items() if not store.check([key])]


def _host_key(rank: int) -> str:
    return f"everytoken/host/{rank}"


def beat_key(rank: int) -> str:
    """Where a rank says how far it is, see `together`."""
    return f"everytoken/beat/{rank}"


def _alive_key(rank: int) -> str:
    return f"everytoken/alive/{rank}"
