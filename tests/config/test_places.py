"""What is wrong in a YAML of one's own is told with its file."""

import sys
from pathlib import Path

import pytest

from everytoken.config import cli
from everytoken.config.check import Command
from everytoken.config.values import check_training


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("model", "- a\n", "own/model/mine.yaml begins with a list"),
        ("experiment", "- a\n- b\n", "own/experiment/mine.yaml begins with a list"),
        ("experiment", "# @package _global_\n- a\n", "experiment/mine.yaml begins with a list"),
        (
            "experiment",
            "# @package _global_\ndefaults:\n  - override /modl: small\n",
            "own/experiment/mine.yaml, line 3: unknown key modl: did you mean model?",
        ),
        (
            "experiment",
            "defaults:\n  - override /modl: small\n",
            "own/experiment/mine.yaml, line 2: a YAML of experiment/ overrides modl",
        ),
        (
            "experiment",
            "# @package _global_\nseed: ${nope.deep}\n",
            "own/experiment/mine.yaml, line 2: seed can't be resolved: Interpolation key",
        ),
        (
            "experiment",
            "# @package _global_\nname: ${oc.env:NOT_THERE}\n",
            "own/experiment/mine.yaml, line 2: hydra.run.dir can't be resolved: Environment",
        ),
        (
            "experiment",
            "# @package _global_\nseed: ${nope\n",
            "own/experiment/mine.yaml, line 2: seed: ",
        ),
    ],
)
def test_a_slip_in_a_choice_is_told_with_its_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    text: str,
    told: str,
):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "another"):
        path = tmp_path / "own" / file / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    words = ["--config-dir", "own", f"{file}=mine", "logger=none"]
    monkeypatch.setattr(sys, "argv", ["train", *words])

    def job(cfg: object, command: Command) -> None:
        raise AssertionError("it isn't begun")

    with pytest.raises(SystemExit) as left:
        cli.main("train", job, check=check_training)
    assert left.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert told in line
