"""What rank 0 decides for all: which run is theirs, say.

Only rank 0 may, for time stamps and files differ from one look to the next.
"""

import socket
from collections.abc import Callable
from pathlib import Path

from everytoken.errors import FAILURE, UserError
from everytoken.runtime.rendezvous import meet, missed
from everytoken.runtime.together import together
from everytoken.runtime.world import World, world


def agreed(decide: Callable[[], Path | None], wait_seconds: float) -> Path | None:
    """What rank 0 decides, on all ranks; in a process without others, what it decides.

    Args:
        decide: gives a folder that all ranks see, or None.
        wait_seconds: see `meet`.

    Raises:
        UserError: rank 0 can't decide, or others don't see that folder.
        RunError: a rank is gone, or hangs.
        SystemExit: rank 0 can't, as it says itself; on other ranks, with the same exit code.
    """
    here = world()
    if here is None:
        return decide()
    meet(wait_seconds)
    try:
        return _agreed(here, decide)
    except RuntimeError as error:
        if found := missed(error):
            raise found from error
        raise


def _agreed(here: World, decide: Callable[[], Path | None]) -> Path | None:
    from torch import distributed  # only here: it takes seconds

    said: list[str | int | None] = [FAILURE]  # unless rank 0 comes to another end
    raised: BaseException | None = None
    with together("choosing a run directory"):
        if here.rank == 0:
            try:
                decided = decide()
                said = [decided and str(decided)]
            except BaseException as error:  # the others have to know first
                raised = error
                said = [error.exit_code if isinstance(error, UserError) else FAILURE]
    distributed.broadcast_object_list(said)
    if raised is not None:
        raise raised
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
