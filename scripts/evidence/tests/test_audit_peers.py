"""audit_peers.py finds what is known of others; each red cell is shown without this project."""

import importlib
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from support import prefork

FOLDER = Path(__file__).parents[1]
PICTURE = FOLDER.parents[1] / ".github" / "audit-peers.png"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(find_spec(name) is None for name in ("transformers", "trl")), reason="needs trl"
    ),
]
MEANS = ["accumulation", "evaluation", "two processes", "logged loss", "evaluation on processes"]
EVALUATION = ["evaluation", "evaluation on processes"]


@pytest.fixture
def audit_peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("audit_peers")


LEFT = ["padding length", "padding content", "step", "loss", "accumulation"]
LEFT += ["label smoothing", "evaluation", "two processes", "logged loss", "evaluation on processes"]

KNOWN = {
    "llama": EVALUATION,
    "llama_left": LEFT,
    "gpt2": ["loss", "label smoothing", *EVALUATION],
    "gpt2_eos": ["end of sequence", "loss", "label smoothing", *EVALUATION],
    "bert": MEANS,
    "t5": MEANS,
    "marian": MEANS,
    "sft_completion": EVALUATION,
    "sft_packing": ["evaluation"],
    "lightning": [*MEANS, "resume"],
    "everytoken_causal": [],
}


def test_known_answers(audit_peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path), "--peers", *KNOWN])
    assert audit_peers.main() == 0
    assert (tmp_path / "audit-peers.png").stat().st_size > 20_000
    found = json.loads((tmp_path / "audit-peers.json").read_text())
    names = {make.__name__: peer for peer, make in audit_peers.PEERS.items()}
    for peer, wanted in KNOWN.items():
        checks = found["peers"][names[peer]]["checks"]
        assert [name for name, cell in checks.items() if cell["verdict"] == "FAILS"] == wanted, peer
        assert all(checks[name]["script"] for name in wanted)
        assert found["peers"][names[peer]]["seconds"] < 120
    assert {"torch", "transformers", "trl", "lightning"} <= found["machine"].keys()


TWO = ("--nproc_per_node", "2", "--local-ranks-filter", "0")
"""Ranks, of which one is heard: lines of both would run together."""


def printed(*command: str) -> list[float]:
    """The last number of each line that says something of the examples."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if command[0] == sys.executable:
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=200)
    else:  # a script: in a process that has imported what it needs
        done = prefork.run(Path.cwd(), *command, env=env)
    assert done.returncode == 0, done.stderr
    lines = re.findall(
        r"^(?:.*(?:loss|norm|entropy|ends|broken|resumed).*) ([\d.]+)$", done.stdout, re.M
    )
    return [float(number) for number in lines]


def test_each_red_cell_is_shown_in_some_lines(audit_peers: Any):
    scripts = {file.stem for file in audit_peers.RED.glob("*.py")}
    assert scripts == audit_peers.SHOWN.keys()
    for script in sorted(scripts):
        file = audit_peers.RED / f"{script}.py"
        code = [line for line in file.read_text().splitlines() if line.strip()]
        assert len(code) <= 17, script
        assert "everytoken" not in file.read_text()
        found = printed(str(file))
        if script in audit_peers.LAUNCHED:
            run = (sys.executable, "-m", "torch.distributed.run", *TWO)
            found += printed(*run, str(file))[:1]
        assert len(found) == 2, (script, found)
        right, wrong = found
        assert abs(right - wrong) > 1e-3 * abs(right), script


def test_the_picture_is_there():
    assert PICTURE.stat().st_size > 20_000
