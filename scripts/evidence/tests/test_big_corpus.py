"""The script that tokenizes a big corpus, with a small one."""

import re
from pathlib import Path

import pytest

from support import prefork

SCRIPT = Path(__file__).parents[1] / "big_corpus.py"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    words = ["--megabytes", "8", "--rounds", "1", "--folder", str(tmp_path)]
    done = prefork.run(Path.cwd(), str(SCRIPT), *words)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"a (file|line) an example .* (-?[\d.]+) bytes", done.stdout)
    assert [kind for kind, _ in rows] == ["file", "line"]
    assert all(float(more) < 15 for _, more in rows)  # it was 82, of a file
    assert len(re.findall(r"lines of .* (\d+)%", done.stdout)) == 2
    assert not [*tmp_path.iterdir()]
