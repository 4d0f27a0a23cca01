"""What the command line uses of the insides of Hydra is there, and does its work."""

from pathlib import Path
from typing import Any

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from everytoken.config.check import Command, _jobs
from everytoken.config.hydra_internals import argument_parser
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
