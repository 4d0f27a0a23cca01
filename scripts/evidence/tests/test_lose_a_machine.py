"""A job of torchrun that loses a machine goes on, and ends where it would have."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import lose_a_machine


def can_make_machines() -> bool:
    """True for root, where network namespaces can be made."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "machine-try"], capture_output=True)
    subprocess.run(["ip", "netns", "del", "machine-try"], capture_output=True)
    return made.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_make_machines(), reason="needs root and ip(8), to make two machines")
def test_a_machine_that_is_lost_and_comes_back_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code = lose_a_machine.main(["--kills", "1", "--steps", "150", "--out", str(tmp_path / "out")])
    assert code == 0, capsys.readouterr().out
    assert "rank 1 on machine2" in (tmp_path / "out" / "lost-machine1.log").read_text()
