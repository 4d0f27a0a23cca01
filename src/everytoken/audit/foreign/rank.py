"""A rank that is a new process: python -m everytoken.audit.foreign.rank DIR, see `spawned`."""

import os
import sys
from pathlib import Path
from typing import Any

import torch

from everytoken.audit.foreign.batches import tensors
from everytoken.audit.foreign.door import Door
from everytoken.audit.foreign.entrance import made_ready, of_target
from everytoken.audit.foreign.ranks import GIVEN, as_rank, observe
from everytoken.errors import UserError


def main(folder: Path) -> None:
    """Make what is audited anew, and do as the other rank does."""
    torch.set_num_threads(1)
    given = torch.load(folder / GIVEN, weights_only=False)
    rank = int(os.environ["RANK"])
    door = of_target(given["target"], **given["settings"])
    with made_ready(door):
        _take(door, given)
        as_rank(rank, folder, lambda: observe(door, rank))


def _take(door: Door, given: dict[str, Any]) -> None:
    """The first process's weights; its data must be the same."""
    for mine, theirs in zip(door.alone, given["batches"], strict=True):
        own = tensors(mine)
        if own.keys() != theirs.keys() or any(not torch.equal(own[p], theirs[p]) for p in own):
            raise UserError(f"{given['target']} makes other data each time: give it a seed")
    door.model.load_state_dict(given["weights"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
