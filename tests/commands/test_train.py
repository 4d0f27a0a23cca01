"""The job behind `python -m train`: what would fail late is told first."""

from pathlib import Path

import pytest

from everytoken.commands.train import conclusion
from everytoken.run.directory import Run


def test_what_it_says_at_the_end_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    summary = {"throughput/real_tokens_per_second": 1.0, "throughput/fill": 1.0, "seconds/fit": 1.0}
    told = conclusion(Run(tmp_path / "a run"), summary | {"best/step": 3})
    assert told.renderables[-1] == "try it: python -m generate 'run=a run'"
