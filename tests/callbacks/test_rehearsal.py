"""What fails in evaluation fails before the first step, not after the first hours."""

from pathlib import Path

import pytest

from support.helpers import run_here, summary

pytestmark = pytest.mark.slow

SMALL = ["debug=fast", "task=masked_lm", "data=pydoc", "data.limit_examples=3", "precision=bf16"]


def model(name: str) -> list[str]:
    return [f"model._target_=support.outside.{name}", "model.width=16"]


def test_torchs_own_encoder_is_evaluated_as_it_is_trained(tmp_path: Path):
    """Its fast way of inference overlooks autocast on CPUs."""
    done = run_here(tmp_path, "train", "hydra.run.dir=run", *SMALL, *model("TorchEncoder"))
    assert done.returncode == 0, done.stderr
    assert summary(tmp_path / "run")["test/loss"] > 0


@pytest.mark.bad_input
def test_what_fails_in_evaluation_is_told_before_a_step(tmp_path: Path):
    done = run_here(tmp_path, "train", "hydra.run.dir=run", *SMALL, *model("FailsInEvaluation"))
    assert done.returncode != 0
    assert "no evaluation today" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()
