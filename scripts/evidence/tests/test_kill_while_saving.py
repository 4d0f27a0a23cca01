"""The script that kills trainings while they save, in short."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "kill_while_saving.py"


@pytest.mark.slow
def test_no_run_is_lost(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--kills", "3", "--seconds", "0.05", "--folder", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    expected = r"\d+ kills, 3 of them while a checkpoint was being written: 0 lost runs"
    assert re.fullmatch(expected, last), last
