"""The job behind `python -m train`: what would fail late is told first."""

import os
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from everytoken.commands.train import conclusion, next_steps
from everytoken.run.directory import Run


def test_what_it_says_at_the_end_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    summary = {"throughput/real_tokens_per_second": 1.0, "throughput/fill": 1.0, "seconds/fit": 1.0}
    told = conclusion(Run(tmp_path / "a run"), summary | {"best/step": 3})
    assert not any("-m generate" in str(line) for line in told.renderables)  # nothing was saved
    (tmp_path / "a run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "a run" / "checkpoints" / "best.ckpt").touch()
    told = conclusion(Run(tmp_path / "a run"), summary | {"best/step": 3})
    assert_pasted("generate", "a run", [str(line) for line in told.renderables])
    (tmp_path / "a run" / "report.html").touch()
    assert any(line.endswith("a run/report.html") for line in next_steps(Run(tmp_path / "a run")))


def test_a_run_is_compared_with_the_one_before_it_of_the_same_task_and_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)

    def made(name: str, age: int, shape: str = "decoder", path: str = "a.txt") -> Run:
        config = {"name": name, "task": {"shape": shape}, "data": {"corpus": {"path": path}}}
        run = Run.create(tmp_path / name, OmegaConf.create(config))
        (run.path / "metrics.csv").touch()
        os.utime(run.path / "metrics.csv", (0, -age))
        return run

    run = made("a run", 0)
    made("other task", 1, shape="encoder")
    made("other data", 2, path="b.txt")
    made("damaged", 3).config_file.write_text("{")
    made("begun", 4).config_file.unlink()
    (tmp_path / "no run").mkdir()
    (tmp_path / "no run" / "metrics.csv").touch()
    assert not any("-m compare 'run=" in line for line in next_steps(run))
    made("oldest", 6)
    made("before", 5)
    assert_pasted("compare", ["before", "a run"], next_steps(run))


def assert_pasted(command: str, value: object, lines: list[str]) -> None:
    """One of the lines is that command, which gives that value as its run."""
    [words] = [shlex.split(line) for line in lines if f"-m {command} " in line]
    assert OverridesParser.create().parse_override(words[-1]).value() == value
