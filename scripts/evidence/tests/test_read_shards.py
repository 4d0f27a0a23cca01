"""The script that reads shards from a server, with few."""

import re
from pathlib import Path

import pytest

from support import prefork

SCRIPT = Path(__file__).parents[1] / "read_shards.py"


@pytest.mark.slow
def test_steps_are_those_of_the_disk(tmp_path: Path) -> None:
    words = ["--megabytes", "0.4", "--shard-megabytes", "0.02", "--steps", "12", "--pause", "0"]
    done = prefork.run(Path.cwd(), str(SCRIPT), *words, "--folder", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr  # nothing differs, nor is over
    assert len(re.findall(r"shards, .* kB .* MB .* s", done.stdout)) == 3
    assert not [*tmp_path.iterdir()]
