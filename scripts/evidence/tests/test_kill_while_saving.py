"""The script that kills trainings while they save, in short."""

import re
from pathlib import Path

import pytest

from support import prefork

SCRIPT = Path(__file__).parents[1] / "kill_while_saving.py"


@pytest.mark.slow
def test_no_run_is_lost(tmp_path: Path) -> None:
    words = ["--kills", "3", "--seconds", "0.05", "--folder", str(tmp_path)]
    done = prefork.run(Path.cwd(), str(SCRIPT), *words)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    expected = r"\d+ kills, 3 of them while a checkpoint was being written: 0 lost runs"
    assert re.fullmatch(expected, last), last
