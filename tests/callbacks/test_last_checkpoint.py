"""Checkpoints: when they are saved, and what they hold."""

from pathlib import Path

import pytest
import torch

from everytoken.callbacks.last_checkpoint import LastCheckpoint
from support.fitting import STEPS, fit


@pytest.mark.parametrize("every", [2, 5, 100])
def test_last_checkpoint_holds_the_weights_of_the_last_step(tmp_path: Path, every: int):
    _, module = fit(tmp_path, LastCheckpoint(every_n_steps=every, keep=1))
    [file] = (tmp_path / "checkpoints").iterdir()
    assert file.name == "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)  # plain containers only
    assert checkpoint["global_step"] == STEPS
    for name, weight in module.state_dict().items():
        assert torch.equal(checkpoint["state_dict"][name], weight)
