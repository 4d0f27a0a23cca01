"""How ranks that torchrun or srun started meet, and learn from rank 0 which run is theirs.

They meet as torch's process group, which Lightning then uses. Only rank 0 may decide on the run,
for time stamps and files differ from one look to the next.
"""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from everytoken.errors import FAILURE, UserError
from everytoken.runtime.console import level, warn
from everytoken.runtime.world import World, may_restart, world

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

SECONDS = 120
"""How long ranks may start after each other."""

TRY_SECONDS = 3
"""How long one may take to answer who is there."""

ADDRESS = "everytoken/address"

PORTS = range(10_000, 32_000)
"""Below those that systems give to whoever asks for any."""


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
    count: int = 0
    """How often they have waited for each other, see `together`."""

    def named(self, rank: int) -> str:
        """A rank and its machine, in words."""
        return f"rank {rank} on {self.store.get(_host_key(rank)).decode()}"


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
    """
    here = world()
    if here is None:
        return
    hush()
    from torch import cuda, distributed  # only here: it takes seconds

    if distributed.is_initialized():
        return
    try:
        store = _store(here)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda.is_available() else "gloo",
            store=store,
            rank=here.rank,
            world_size=here.size,
            timeout=timedelta(seconds=wait_seconds),
        )
    except (RuntimeError, OSError) as error:
        said = str(error).splitlines()[0]
        raise UserError(
            f"rank {here.rank} on {socket.gethostname()} can't meet the other ranks of {here.size} "
            f"({said}): is each of them started, and can they reach each other?"
        ) from error
    store.set(_host_key(here.rank), socket.gethostname())
    store.set(beat_key(here.rank), "0")
    _meetings.append(Meeting(store, here.rank, here.size, wait_seconds))
    if may_restart() and _is_shared():
        warn(
            "a machine that is lost can't join again, for torchrun mixes up its starts (pytorch "
            "issue 135712): set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun"
        )


def hush() -> None:
    """Let torch, which isn't imported yet, print no stacks of C++ if another rank is gone."""
    if level() != "debug":
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def agreed(decide: Callable[[], Path | None], wait_seconds: float) -> Path | None:
    """What rank 0 decides, on all ranks; in a process without others, what it decides.

    Args:
        decide: gives a folder that all ranks see, or None.
        wait_seconds: see `meet`.

    Raises:
        UserError: rank 0 can't decide, or others don't see that folder.
        SystemExit: rank 0 can't, as it says itself; on other ranks, with the same exit code.
    """
    here = world()
    if here is None:
        return decide()
    meet(wait_seconds)
    from torch import distributed  # only here: it takes seconds

    said: list[str | int | None] = [FAILURE]  # unless rank 0 comes to another end
    try:
        if here.rank == 0:
            decided = decide()
            said = [decided and str(decided)]
    except UserError as error:
        said = [error.exit_code]
        raise
    finally:
        distributed.broadcast_object_list(said)
    [told] = said
    if isinstance(told, int):
        raise SystemExit(told)
    if told is None:
        return None
    sees: list[str | None] = [None] * here.size
    missing = None if Path(told).is_dir() else socket.gethostname()
    distributed.all_gather_object(sees, missing)
    if blind := sorted({host for host in sees if host}):
        if here.rank > 0:
            raise SystemExit(UserError.exit_code)
        raise UserError(
            f"{', '.join(blind)} can't see the run directory {told}: give a folder that all "
            "machines share with hydra.run.dir=PATH"
        )
    return Path(told)


def lost() -> str:
    """Which ranks don't answer any more, and on which machine they were, once one was missed.

    All that are left ask at about the same time. "" if all answer, or there is nobody to ask.
    """
    here = met()
    if here is None:
        return ""
    store = here.store
    try:
        store.set_timeout(timedelta(seconds=TRY_SECONDS))
        store.set(_alive_key(here.rank), "")
        keys = {rank: _alive_key(rank) for rank in range(here.size)}
        until = time.monotonic() + TRY_SECONDS
        while time.monotonic() < until and not store.check([*keys.values()]):
            time.sleep(0.2)
        gone = [rank for rank, key in keys.items() if not store.check([key])]
        return ", ".join(map(here.named, gone))
    except RuntimeError:  # it was rank 0's
        return "rank 0"


def _host_key(rank: int) -> str:
    return f"everytoken/host/{rank}"


def beat_key(rank: int) -> str:
    """Where a rank says how far it is, see `together`."""
    return f"everytoken/beat/{rank}"


def _alive_key(rank: int) -> str:
    return f"everytoken/alive/{rank}"


def _store(here: World) -> "Store":
    """One that only ranks of this start know.

    torchrun's own store may live through its restarts, and hold where those of an earlier start
    listened; nor do its agents agree on how often they have restarted (pytorch issue 135712). There
    rank 0 only says where its own one is.
    """
    if _is_shared():
        return _announced(here)
    if "MASTER_ADDR" not in os.environ and "SLURM_JOB_ID" in os.environ:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment  # takes seconds

        nodes = os.environ["SLURM_STEP_NODELIST"]
        os.environ["MASTER_ADDR"] = SLURMEnvironment.resolve_root_node_address(nodes)
        os.environ["MASTER_PORT"] = str(_port_of_step())
    return _tcp_store(*_meeting_place(), here.rank == 0, SECONDS)


def _meeting_place() -> tuple[str, int]:
    try:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise UserError(
            "MASTER_ADDR and MASTER_PORT don't say where the ranks meet: start them by torchrun or "
            "srun, which set both"
        ) from error


def _is_shared() -> bool:
    """True if ranks are meant to meet in the store of torchrun."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _tcp_store(host: str, port: int, is_master: bool, seconds: float) -> "Store":
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    timeout = timedelta(seconds=seconds)
    return TCPStore(host, port, is_master=is_master, timeout=timeout, wait_for_workers=False)


def _announced(here: World) -> "Store":
    """Rank 0's store, whose address stands in torchrun's.

    Who is left of an earlier start has ended before this one began, so an address of theirs leads
    nowhere, or to somebody else, until rank 0 has written its own.
    """
    host, port = _meeting_place()
    agents = _tcp_store(host, port, False, SECONDS)
    if here.rank == 0:
        store = _tcp_store(own := _own_address(host, port), 0, True, SECONDS)
        address = f"{own} {store.port}"  # pyright: ignore[reportAttributeAccessIssue]
        store.set(ADDRESS, address)
        agents.set(ADDRESS, address)
        return store
    until = time.monotonic() + SECONDS
    while True:
        address = agents.get(ADDRESS).decode()
        own, _, port = address.partition(" ")
        try:
            store = _tcp_store(own, int(port), False, TRY_SECONDS)
            if store.check([ADDRESS]) and store.get(ADDRESS).decode() == address:
                store.set_timeout(timedelta(seconds=SECONDS))
                return store
        except RuntimeError:
            if time.monotonic() > until:
                raise
        time.sleep(0.2)


def _own_address(host: str, port: int) -> str:
    """That of this machine, as who can reach `host` can reach it."""
    with socket.create_connection((host, port), timeout=SECONDS) as connection:
        return connection.getsockname()[0]


def _port_of_step() -> int:
    """Another one for each step of each job, as far as possible."""
    job, step = (int(os.environ.get(f"SLURM_{name}_ID", "0")) for name in ("JOB", "STEP"))
    return PORTS[(7 * job + step) % len(PORTS)]
