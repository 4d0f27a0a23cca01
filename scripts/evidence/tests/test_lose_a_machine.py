"""A job of torchrun that loses a machine goes on, and ends where it would have."""

from pathlib import Path

import pytest

import lose_a_machine
from machines import can_be_made


@pytest.mark.slow
@pytest.mark.skipif(not can_be_made(), reason="needs root and ip(8), to make two machines")
def test_a_machine_that_is_lost_and_comes_back_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code = lose_a_machine.main(["--kills", "1", "--steps", "150", "--out", str(tmp_path / "out")])
    assert code == 0, capsys.readouterr().out
    assert "rank 1 on machine2" in (tmp_path / "out" / "lost-machine1.log").read_text()
