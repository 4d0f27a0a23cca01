"""Evaluation of a finished run: what can't be done is told before anything is done."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from everytoken.commands.evaluate import evaluate
from everytoken.errors import UserError
from everytoken.run.directory import Run


@pytest.mark.bad_input
def test_a_decoding_where_nothing_is_generated_is_refused(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"name": "x", "task": {"max_new_tokens": None, "shape": "decoder"}})
    run = Run.create(tmp_path / "run", cfg)
    with pytest.raises(UserError, match=r"task\.max_new_tokens=null.*leave it out"):
        evaluate(
            str(run.path),
            "val",
            "best",
            {},
            None,
            {"_target_": "everytoken.decoding.Greedy"},
        )
