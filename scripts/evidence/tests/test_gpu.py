"""What a machine with a GPU has to show, tried without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support import prefork

FOLDER = Path(__file__).parents[1]
PARTS = ("tests", "agree", "train-bf16", "compile", "resume", "head", "speed", "compiled")


@pytest.mark.slow
@pytest.mark.parametrize("check", ["agree", "compile"])
def test_checks_on_a_cpu(check: str, tmp_path: Path):
    out = tmp_path / "found.json"
    words = ("-m", "benchmarks.gpu_checks", check, "--device", "cpu", "--tiny", "--out", str(out))
    done = prefork.run(FOLDER, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert report["ok"]
    assert len(report["found"]) == {"agree": 18, "compile": 4}[check]


@pytest.mark.slow
def test_a_check_can_fail(tmp_path: Path):
    code = (
        "import sys, benchmarks.gpu_checks as checks\n"
        "checks.BOUNDS['bf16'] = 1e-6\n"
        f"sys.argv[1:] = ['agree', '--device', 'cpu', '--tiny', '--out', {str(tmp_path / 'f')!r}]\n"
        "sys.exit(checks.main())"
    )
    assert prefork.run(FOLDER, "-c", code).returncode == 1
    assert not json.loads((tmp_path / "f").read_text())["ok"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_checks_are_refused_without_a_gpu(tmp_path: Path):
    done = prefork.run(FOLDER, "-m", "benchmarks.gpu_checks", "agree", "--out", str(tmp_path / "f"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("small", [False, True])
def test_each_part_leaves_a_line_whatever_becomes_of_it(tmp_path: Path, small: bool):
    fails = "import sys; sys.exit(3 * ('agree' in sys.argv))"
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexec {sys.executable} -c "{fails}" "$@"'
    )
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "SMALL": "1" if small else ""}
    command = ["bash", str(FOLDER / "gpu.sh"), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    lines = (tmp_path / "out" / "parts.jsonl").read_text().splitlines()
    codes = {found["part"]: found["exit_code"] for found in map(json.loads, lines)}
    assert codes == {name: 3 * (name == "agree") for name in codes}
    assert {*codes} - {"train-fp16"} == {*PARTS}
    calls = (tmp_path / "calls").read_text()
    assert ("--device cuda" in calls) is not small
    for word in calls.split():
        if word.endswith((".py", "tests/model")):
            assert (FOLDER / word).exists(), word


def test_it_takes_ten_minutes_at_most():
    limits = [
        int(line.split()[2])
        for line in (FOLDER / "gpu.sh").read_text().splitlines()
        if line.strip().startswith(("part ",)) and '"$python"' in line
    ]
    assert len(limits) == len(PARTS)
    assert sum(limits) + 25 <= 600  # training is tried in two precisions
