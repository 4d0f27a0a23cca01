"""Jobs of a sweep are called by what tells them apart."""

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from everytoken.config.composing import composed
from everytoken.config.jobs import Job, differing, label, name_job
from everytoken.config.keys import MOST_BYTES, check_name, conf_dir
from support.continuing import command

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
