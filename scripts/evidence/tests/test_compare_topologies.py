"""compare_topologies.py: the cut changes what plain Lightning learns, and nothing here."""

import json
import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from support import prefork

SCRIPT = Path(__file__).parents[1] / "compare_topologies.py"
CUT = ("1x4", "2x1")
pytestmark = pytest.mark.slow


def run(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    return prefork.run(Path.cwd(), str(SCRIPT), str(out), *words, env=environment)


def test_only_the_peer_depends_on_the_cut(tmp_path: Path):
    done = run(
        tmp_path / "out", "--setups", "lightning", "everytoken", "--cuts", *CUT, "--steps", "2"
    )
    assert done.returncode == 0, done.stderr
    assert "held-out" in done.stdout
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 10_000
    results = json.loads((tmp_path / "out" / "comparison.json").read_text())["results"]
    assert results["lightning"]["1x4"]["gradient"] > 1e-3
    for topology in CUT:
        measured = results["everytoken"][topology]
        assert measured["gradient"] <= 1e-6
        assert measured["weights"] <= 1e-5
        assert measured["logged_over_true"] == pytest.approx(1, abs=1e-5)
        assert re.search(rf"everytoken +{topology} +\d", done.stdout), done.stdout


@pytest.mark.skipif(find_spec("transformers") is not None, reason="transformers is installed")
def test_missing_transformers_is_one_line(tmp_path: Path):
    done = run(tmp_path / "out", "--setups", "hf-t5")
    assert done.returncode == 2
    assert done.stderr == 'error: set-ups hf-* need: pip install "everytoken[compare]"\n'
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers")
def test_hugging_face_counts_tokens_for_decoders_only(tmp_path: Path):
    words = ["--cuts", "1x4", "--steps", "1", "--markdown"]  # importing transformers takes long
    done = run(tmp_path, "--setups", "hf-t5", "hf-llama", *words)
    assert done.returncode == 0, done.stderr
    assert "| set-up" in done.stdout
    results = json.loads((tmp_path / "comparison.json").read_text())["results"]
    assert results["hf-t5"]["1x4"]["gradient"] > 1e-1
    assert results["hf-llama"]["1x4"]["gradient"] <= 1e-6
