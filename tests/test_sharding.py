"""Sharded runs read the same files under the same conditions."""

from datetime import timedelta
from pathlib import Path

import pytest

from everytoken.checkpoint import write
from everytoken.errors import UserError
from everytoken.sharding import Sharding


@pytest.mark.bad_input
def test_a_damaged_checkpoint_is_refused_before_any_shard_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write({"state_dict": {}}, path, keep=1)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"last\.ckpt is damaged or cut off"):
        Sharding(ranks=2, timeout=timedelta(seconds=9)).load_checkpoint(path)
