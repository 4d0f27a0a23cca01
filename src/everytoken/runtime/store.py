"""Where ranks meet: a store that rank 0 has and all reach, as torchrun, srun or `launch` say."""

import os
import socket
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from everytoken.errors import UserError
from everytoken.runtime.world import World

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

SECONDS = 120
"""How long ranks may start after each other."""

TRY_SECONDS = 3
"""How long one may take to answer who is there."""

ADDRESS = "everytoken/address"

PORTS = range(10_000, 32_000)
"""Below those that systems give to whoever asks for any."""


def store_of(here: World) -> "Store":
    """One that only ranks of this start know.

    torchrun's own store may live through its restarts, and hold where those of an earlier start
    listened; nor do its agents agree on how often they have restarted (pytorch issue 135712). There
    rank 0 only says where its own one is.
    """
    if is_shared():
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


def is_shared() -> bool:
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
