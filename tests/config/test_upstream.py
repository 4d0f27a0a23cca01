"""What the command line uses of the insides of Hydra is there, and does its work."""

import sys
from argparse import Action, ArgumentParser
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from everytoken.config.check import Command, _jobs
from everytoken.config.composing import composed
from everytoken.config.hydra_internals import argument_parser, run
from everytoken.config.keys import conf_dir
from support.upstream import changed


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        ("--multirun", "multirun", True),
        ("--config-dir=a", "config_dir", "a"),
        ("--config-name=a", "config_name", "a"),
        ("--config-path=a", "config_path", "a"),
        ("--experimental-rerun=a", "experimental_rerun", "a"),
        ("--help", "help", True),
        ("--hydra-help", "hydra_help", True),
        ("--cfg=job", "cfg", "job"),
        ("--info", "info", "all"),
        ("a=1", "overrides", ["a=1"]),
        ("nothing", "overrides", ["nothing"]),
    ],
)
def test_a_command_line_is_read(typed: str, name: str, value: Any) -> None:
    found = changed(
        "hydra-core",
        f"get_args_parser of hydra._internal.utils ({typed})",
        "config/hydra_internals.py",
    )
    arguments, rest = argument_parser().parse_known_args([typed])
    assert getattr(arguments, name, None) == value, found
    assert rest == [], found
    others = vars(argument_parser().parse_known_args([])[0])
    assert not others.get(name), found


def test_an_option_whose_help_is_no_text_yet_is_no_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.14 and newer look at it; here this is what they do, whatever Python it is."""

    def check(parser: ArgumentParser, action: Action) -> None:
        assert action.help is None or isinstance(action.help, str)

    def add(parser: Any, *words: Any, **settings: Any) -> Action:
        action = added(parser, *words, **settings)
        parser._check_help(action)
        return action

    added = ArgumentParser.add_argument
    monkeypatch.setattr(ArgumentParser, "add_argument", add)
    monkeypatch.setattr(ArgumentParser, "_check_help", check, raising=False)
    assert argument_parser().parse_args(["a=1"]).overrides == ["a=1"]
    ran = []
    monkeypatch.setattr(sys, "argv", ["train", f"hydra.run.dir={tmp_path}"])
    hydra.main(version_base="1.3", config_path=None)(ran.append)()
    assert ran == [{}]
    assert ArgumentParser._check_help is check  # pyright: ignore[reportAttributeAccessIssue]


def test_a_job_is_done_as_hydra_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the config that was checked: it isn't composed again."""
    typed = ["seed=3", f"hydra.run.dir={tmp_path / 'new'}", "+hydra.job.env_set.ONCE=1"]
    seen: list[dict[str, Any]] = []

    def job(cfg: DictConfig) -> None:
        there = (tmp_path / "new").is_dir()
        seen.append(
            {"cfg": cfg, "there": there, "hydra": OmegaConf.to_container(HydraConfig.get())}
        )
        (tmp_path / "new").rmdir()

    job.__module__ = "__main__"
    GlobalHydra.instance().clear()
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["train", *typed])
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(job)()
    run(composed(conf_dir(), "train", typed), conf_dir(), job)
    expected, found = seen
    del expected["hydra"]["job"]["name"]  # the file's that was started; here the test's
    assert found["hydra"]["job"].pop("name") == "train"
    expected["hydra"]["overrides"]["hydra"].remove("hydra.mode=RUN")
    assert found == expected, changed("hydra-core", "Hydra.run", "config/hydra_internals.py")


@pytest.mark.parametrize(
    "overrides",
    [
        ["a=1,2", "b=x", "+c=3,4,5"],
        ["a=range(3)", "~b", "d='1,2'"],
        ["a=choice(x,y)", "a=1", "b=[1,2],[3]"],
        [],
    ],
)
def test_jobs_of_a_sweep_are_those_that_hydra_makes(overrides: list[str]) -> None:
    """Each is checked before the first starts, so they are to be the same."""
    command = Command("train", Path(), overrides, frozenset(), asks=False, sweeps=True)
    parsed = OverridesParser.create().parse_overrides(overrides)
    expected = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
    found = changed("hydra-core", "what BasicSweeper makes of overrides", "config/check.py")
    assert list(_jobs(command, overrides)) == expected, found


def test_jobs_that_are_drawn_are_not_known() -> None:
    overrides = ["a=interval(0,1)"]
    command = Command("train", Path(), overrides, frozenset(), asks=False, sweeps=True)
    assert list(_jobs(command, overrides)) == []
