"""Jobs of a sweep are called by what tells them apart."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from everytoken.config.composing import composed
from everytoken.config.jobs import Job, differing, label, name_job
from everytoken.config.keys import MOST_BYTES, check_name, conf_dir
from support.continuing import command
from support.helpers import assert_refused, run_here

LONG = "x" * MOST_BYTES


@pytest.mark.parametrize(
    ("typed", "job", "name"),
    [
        (["seed=1,2"], ["seed=1"], "seq2seq-dates-seed=1"),
        (
            ["optimizer.lr=1e-3,1e-2", "model=tiny,small", "seed=3"],
            ["optimizer.lr=0.001", "model=small", "seed=3"],
            "seq2seq-dates-lr=0.001,model=small",
        ),
        (["+a.x=1,2", "+b.x=1,2"], ["+a.x=1", "+b.x=2"], "seq2seq-dates-a.x=1,b.x=2"),
        (["data.path='a b','c/d'"], ["data.path='c/d'"], "seq2seq-dates-path=c_d"),
        (["name=a,b"], ["name=a"], "a"),
        (["sweep=learning_rate"], ["optimizer.lr=0.002"], "seq2seq-dates-lr=0.002"),
        ([f"data.path={LONG},b"], [f"data.path={LONG}"], "seq2seq-dates-7"),
    ],
)
def test_a_name_says_what_differs(
    typed: list[str], job: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    cfg = of_a_sweep(typed, job)
    name_job(cfg, command(*typed))
    assert cfg.name == name
    check_name(cfg.name)
    assert cfg.logger.wandb.group == "my-sweep"
    assert Job.current() is not None


def of_a_sweep(typed: list[str], job: list[str]) -> DictConfig:
    """The config of job 7, while Hydra is making it."""
    prepared = [one for one in typed if one.startswith("sweep=")]
    named = [one for one in job if one.startswith("name=")]
    cfg = composed(conf_dir(), "train", [*prepared, *named, "hydra.sweep.dir=a/my-sweep"])
    with open_dict(cfg):
        cfg.hydra.mode = RunMode.MULTIRUN
        cfg.hydra.job.num = 7
        cfg.hydra.runtime.output_dir = "a/my-sweep/7"
        cfg.hydra.overrides.task = job
        HydraConfig.instance().set_config(cfg)
        del cfg["hydra"]
    return cfg


def test_a_group_that_is_given_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    cfg = of_a_sweep(["seed=1,2"], ["seed=1"])
    name_job(cfg, command("seed=1,2"))
    assert cfg.logger.wandb.group is None  # so W&B reads the variable


def test_keys_are_as_short_as_they_can_be() -> None:
    assert label(["a.lr=1", "seed=2", "x=3"], ["a.lr", "seed"]) == "lr=1 seed=2"
    assert label(["a.lr=1"], ["a.lr", "seed"]) == "lr=1"
    jobs = [["a.lr=1", "seed=2", "+b=1"], ["a.lr=2", "seed=2"]]
    assert differing(jobs) == ["a.lr", "b"]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """Overrides of each job that goes to a launcher of the name of submitit's."""
    given: list[list[str]] = []

    class Recording(Launcher):
        def setup(self, **parts: Any) -> None:
            """Nothing to prepare."""

        def launch(self, job_overrides: Any, initial_job_idx: int) -> list[JobReturn]:
            given.extend(map(list, job_overrides))
            return [JobReturn(status=JobStatus.COMPLETED) for _ in job_overrides]

    monkeypatch.setattr(Plugins, "instantiate_launcher", lambda self, **parts: Recording())
    settings = {"_target_": "a.Launcher", "name": "", "timeout_min": 0, "max_num_timeout": 0}
    store = ConfigStore.instance()
    store.store("submitit_slurm", settings, "hydra/launcher", provider="tests")
    yield given
    del store.repo["hydra"]["launcher"]["submitit_slurm.yaml"]


@pytest.mark.skipif(find_spec("submitit") is not None, reason="its own launcher has that name")
def test_a_run_that_is_no_sweep_is_a_slurm_job_too(
    launched: list[list[str]], tmp_path: Path
) -> None:
    done = run_here(tmp_path, "train", "launcher=slurm", "seed=3")
    assert done.returncode == 0, done.stderr
    assert launched == [["launcher=slurm", "seed=3"]]
    assert not [*tmp_path.rglob("run.json")]  # nothing was trained here
    wrong = run_here(tmp_path, "train", "launcher=slurm", "hydra.run.dir=here")
    assert_refused(wrong, "hydra.run.dir=here would change nothing", "hydra.sweep.dir=here")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--multirun", "seed=1,2", "hydra.run.dir=a b"], "give hydra.sweep.dir='a b'"),
        (["sweep=learning_rate", "hydra.run.dir=a"], "give hydra.sweep.dir=a"),
        (["hydra.sweep.dir=a"], "since this is one run: give hydra.run.dir=a"),
    ],
)
def test_a_directory_that_is_not_looked_at_is_refused(
    words: list[str], told: str, tmp_path: Path
) -> None:
    assert_refused(run_here(tmp_path, "train", *words), "would change nothing", told)
    assert not [*tmp_path.iterdir()]
