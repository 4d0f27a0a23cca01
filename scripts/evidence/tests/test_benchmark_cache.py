"""scripts/evidence/benchmark.py cache: builds, opens, reads and damages every store."""

import json
import os
from pathlib import Path

import pytest

from support import prefork

BENCHMARK = Path(__file__).parents[1] / "benchmark.py"


@pytest.mark.slow
def test_stores_are_measured_and_damaged(tmp_path: Path):
    words = ("--examples", "3000", "--rounds", "1", "--threads", "1", "--out", str(tmp_path))
    env = {**os.environ, "COLUMNS": "160"}
    done = prefork.run(Path.cwd(), str(BENCHMARK), "cache", *words, env=env)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "cache.json").read_text())["results"]
    assert [*found["rounds"]] == ["everytoken", "datasets", "datasets+"]
    for store, (figures,) in found["rounds"].items():
        assert store in done.stdout
        assert all(figures[name] > 0 for name in ("build s", "open s", "read µs"))
    damages = found["damages"]
    assert {*damages["everytoken"].values()} == {"found"}
    assert damages["datasets"]["flipped"] == "NOT FOUND"
    assert damages["datasets+"]["cut in use"] == "killed"
