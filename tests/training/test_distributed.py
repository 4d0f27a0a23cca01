"""Ranks exchange gradients in one order; sharded runs read the same files as others."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch

from everytoken.commands.strategy import Sharding
from everytoken.errors import UserError
from everytoken.run.checkpoint_file import write
from support import prefork


@pytest.mark.bad_input
def test_a_damaged_checkpoint_is_refused_before_any_shard_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write({"state_dict": {}}, path, keep=1)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"last\.ckpt is damaged or cut off"):
        Sharding(ranks=2, timeout=timedelta(seconds=9)).load_checkpoint(path)


def test_a_first_step_adds_gradients_as_later_ones_do(tmp_path: Path) -> None:
    """Bit for bit, or a resumed run would not be the one that was never stopped.

    DDP lays gradients out anew after the first backward, and the sum of three numbers depends on
    which two are added first.
    """
    job = "support.sharding_jobs:the_same_step_three_times"
    prefork.launch(job, {"folder": str(tmp_path)}, 3)
    for rank in range(3):
        found = torch.load(tmp_path / f"{rank}.pt")
        first, *later = found["gradients"]
        assert first.norm() > 0
        assert len(later) == 2
        assert found["backwards"] == 1 + 3 * 2  # steps of two micro-batches
        # The first one leaves the model's buffers as they were; all ranks have those of rank 0.
        assert found["reads"] == 3 * 2
        assert all(torch.equal(first, gradient) for gradient in later)
