"""The script that kills trainings while they save, in short."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "kill_while_saving.py"


@pytest.mark.slow
def test_no_run_is_lost(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--kills", "3", "--seconds", "0.05", "--folder", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    found = re.fullmatch(
        r"3 kills during a save \((\d) of them while the temporary file existed\): 0 lost runs",
        last,
    )
    assert found is not None, last
    assert int(found[1]) > 0
