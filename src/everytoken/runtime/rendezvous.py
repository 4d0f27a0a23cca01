"""How ranks that torchrun or srun started learn from rank 0 which run is theirs.

Only rank 0 may decide that, for time stamps and files differ from one look to the next. Its
decision goes through a store that lives as long as this start of the ranks, so nobody takes an
earlier start's for it.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from everytoken.errors import UserError
from everytoken.runtime.launch import free_port
from everytoken.runtime.rank import global_rank, is_launched

SECONDS = 120
"""How long ranks may start after each other."""

_stores: list[object] = []  # rank 0's must live until all have asked it


def agreed(decide: Callable[[], Path | None]) -> Path | None:
    """What rank 0 decides, on all ranks; in a process without others, what it decides.

    Raises:
        UserError: on other ranks, if rank 0 fails.
    """
    if not is_launched():
        return decide()
    # Only here: it takes seconds.
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    host, port, is_there = _place()
    rank, attempt = global_rank(), int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    key = f"everytoken/{attempt}/run"
    try:
        store = TCPStore(
            host,
            port,
            is_master=rank == 0 and not is_there,
            timeout=timedelta(seconds=SECONDS),
            wait_for_workers=False,
        )
        _stores.append(store)
        if attempt:
            _meet_elsewhere(store, f"everytoken/{attempt}/port", rank)
        if rank != 0:
            decided = store.get(key).decode()
            return Path(decided) if decided else None
    except RuntimeError as error:
        raise UserError(f"rank {rank} can't reach rank 0 ({str(error).splitlines()[0]})") from error
    decided = decide()
    store.set(key, "" if decided is None else str(decided))
    return decided


def _meet_elsewhere(store: Any, key: str, rank: int) -> None:
    """Have the process group of ranks that torchrun has started again use a store of its own.

    The launcher's may still hold where those of the start before listened: ranks would try to reach
    them until they give up.
    """
    if rank == 0:
        store.set(key, str(free_port()))
    os.environ["MASTER_PORT"] = store.get(key).decode()
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"


def _place() -> tuple[str, int, bool]:
    """Host and port of the store, and whether the launcher has it there already."""
    if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        is_there = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        port = int(os.environ["MASTER_PORT"])
        # The port itself is for the process group.
        return os.environ["MASTER_ADDR"], port if is_there else port + 1, is_there
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    slurm = SLURMEnvironment(auto_requeue=False)
    return slurm.main_address, slurm.main_port + 1, False
