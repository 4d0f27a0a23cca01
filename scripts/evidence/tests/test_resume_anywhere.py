"""The walk over pairs of strategies, in short: of the rest tests/ has a sample."""

from pathlib import Path

import pytest

import resume_anywhere


@pytest.mark.slow
def test_a_pair_ends_where_one_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    ways = {"alone": ["trainer=cpu"], "ddp 2": ["trainer=ddp_cpu"]}
    monkeypatch.setattr(resume_anywhere, "WAYS", ways)
    monkeypatch.setattr(resume_anywhere, "BEFORE", ["ddp 2"])
    assert resume_anywhere.main([str(tmp_path), "--kinds", "plain"]) == 0
    out = capsys.readouterr().out
    assert out.count("plain: ddp 2 -> ") == 2
    assert "\n0 at fault" in out
