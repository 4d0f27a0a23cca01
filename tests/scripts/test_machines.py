"""What scripts/machines/ hands to torchrun and srun is what these and train take."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from support.helpers import composed

FOLDER = Path(__file__).parents[2] / "scripts" / "machines"
RECORD = '#!/bin/sh\nprintf "%s\\n" "$@" >"$RECORDED"\n'
SKYPILOT = {
    **{"NUM_NODES": "2", "NUM_GPUS_PER_NODE": "8", "NODE_RANK": "1"},
    "NODE_IPS": "10.0.0.1\n10.0.0.2",
}


def words_of(folder: Path, script: str, *more: str, **env: str) -> list[str]:
    """What a bash script hands to torchrun or srun, neither of which is started."""
    for name in ("torchrun", "srun"):
        (folder / name).write_text(RECORD)
        (folder / name).chmod(0o755)
    paths = {"PATH": f"{folder}:{os.environ['PATH']}", "RECORDED": str(folder / "words")}
    command = ["bash", "-euc", script, "bash", *more]
    subprocess.run(command, env=os.environ | paths | env, cwd=folder, check=True)
    return (folder / "words").read_text().splitlines()


def of_torchrun(words: list[str]) -> Any:
    """Arguments as torchrun reads them; what it starts is train, under overrides that compose."""
    read = get_args_parser().parse_args(words)
    assert (read.module, read.training_script) == (True, "train")
    starts_or_goes_on(read.training_script_args)
    return read


def starts_or_goes_on(overrides: list[str]) -> None:
    cfg = composed(*[word for word in overrides if not word.startswith("hydra.")])
    assert cfg.resume == "auto"
    assert "hydra.run.dir=/shared/run" in overrides


def of_yaml(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text())


def test_torchrun(tmp_path: Path):
    script = (FOLDER / "torchrun.sh").read_text()
    place = {"RUN": "/shared/run", "FIRST_HOST": "node0"}
    read = of_torchrun(words_of(tmp_path, script, "model=tiny", **place))
    assert (read.nnodes, read.nproc_per_node, read.rdzv_endpoint) == ("1:4", "gpu", "node0:29400")
    assert read.training_script_args[-1] == "model=tiny"
    read = of_torchrun(words_of(tmp_path, script, **place, MACHINES="2", RANKS="3", PORT="5"))
    assert (read.nnodes, read.nproc_per_node, read.rdzv_endpoint) == ("2", "3", "node0:5")


def test_slurm(tmp_path: Path):
    script = (FOLDER / "slurm.sh").read_text()
    _, *words = words_of(tmp_path, script, "model=tiny", RUN="/shared/run")
    assert words[:3] == ["python", "-m", "train"]
    starts_or_goes_on(words[3:])
    assert words[-1] == "model=tiny"


def test_each_task_of_a_slurm_array_has_a_run_of_its_own(tmp_path: Path):
    script = (FOLDER / "slurm.sh").read_text()
    words = words_of(tmp_path, script, RUN="/shared/run", SLURM_ARRAY_TASK_ID="3")
    assert "hydra.run.dir=/shared/run/3" in words


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("script", "given"),
    [("torchrun.sh", ""), ("torchrun.sh", "RUN"), ("torchrun.sh", "FIRST_HOST"), ("slurm.sh", "")],
)
def test_what_is_to_be_set_is_said(script: str, given: str):
    env = {name: value for name, value in os.environ.items() if name not in ("RUN", "FIRST_HOST")}
    words = ["bash", str(FOLDER / script)]
    done = subprocess.run(words, env=env | {given or "_": "x"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: set RUN, a run directory that all ")
    assert done.stderr.count("\n") == 1


def test_kubernetes():
    spec = of_yaml("trainjob.yaml")["spec"]["trainer"]
    program, *words = spec["command"]
    assert program == "torchrun"
    of_torchrun(words)
    assert spec["numProcPerNode"] == spec["resourcesPerNode"]["limits"]["nvidia.com/gpu"]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_skypilot(tmp_path: Path, rank: str):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    task = of_yaml("skypilot.yaml")
    place = {f"SKYPILOT_{name}": value for name, value in (SKYPILOT | {"NODE_RANK": rank}).items()}
    read = of_torchrun(words_of(tmp_path, task["run"], **place))
    assert (read.nnodes, read.nproc_per_node, read.node_rank) == ("2", "8", int(rank))
    assert read.master_addr == "10.0.0.1"
    assert task["setup"] == "make .venv/.installed"
