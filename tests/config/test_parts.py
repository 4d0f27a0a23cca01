"""Slips in a YAML of one's own are answered with file, line and the nearest name."""

from pathlib import Path

import pytest
from omegaconf import DictConfig

from everytoken.config.code import missing, parameters
from everytoken.config.keys import conf_dir
from everytoken.config.parts import check_code
from everytoken.config.places import lines_of_keys
from everytoken.config.trust import named_in_conf
from everytoken.errors import UserError
from support.helpers import assert_refused, run_here

GLOBAL = "# @package _global_\n"
SLIPS = {
    "key of a group": (GLOBAL + "trainer:\n  max_step: 5", ["line 3", "trainer.max_steps?"]),
    "key of a part": (GLOBAL + "optimizer:\n  lrr: 5", ["line 3", "optimizer.lr?"]),
    "group": (GLOBAL + "trainr:\n  max_steps: 5", ["line 2", "trainer?"]),
    "class": (GLOBAL + "optimizer:\n  _target_: torch.optim.AdamWW", ["line 3", "optim.AdamW?"]),
    "quoted": (GLOBAL + 'model:\n  _target_: "everytoken.model.Tranformer"', ["Transformer?"]),
    "target": (GLOBAL + "callbacks:\n  mine:\n    _taget_: a.B", ["line 4", "_target_?"]),
    "dots": (GLOBAL + "trainer.max_steps: 5", ["line 2", "nest it"]),
    "no package": ("trainer:\n  max_steps: 5", ["line 1", "# @package _global_"]),
    "no package, override": ("defaults: [override /logger: [csv]]", ["# @package _global_"]),
    "syntax": (GLOBAL + "trainer:\n  max_steps: 5\n bad", ["line 4", "expected"]),
    "tab": (GLOBAL + "trainer:\n\tmax_steps: 5", ["line 3", "tab"]),
}


@pytest.mark.bad_input
@pytest.mark.parametrize(("text", "answer"), SLIPS.values(), ids=list(SLIPS))
def test_a_slip_in_a_yaml_is_found_with_its_line(tmp_path: Path, text: str, answer: list[str]):
    file = tmp_path / "own" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    result = run_here(tmp_path, "train", "--config-dir", "own", "experiment=mine")
    assert_refused(result, *answer)
    assert "trust" not in result.stderr


def test_keys_inside_of_an_argument_are_its_parts_own_affair():
    """As those of the config.json of another's model, some of which begin with an underscore."""
    inside = {"_name_or_path": "", "sizes": {"_own": 1}}
    part = {"_target_": "torch.nn.Linear", "in_features": inside, "out_features": 1}
    check_code(DictConfig({"model": part}), conf_dir())
    for slip in (
        {"model": {"_name_or_path": ""}},
        {"model": {**part, "bias": {"_target_": "everytoken.model.Tranformer"}}},
    ):
        with pytest.raises(UserError, match=r"_name_or_path|Tranformer"):
            check_code(DictConfig(slip), conf_dir())


def test_all_code_that_conf_names_is_found_in_source():
    assert {name: missing(name) for name in named_in_conf() if missing(name)} == {}
    taken = parameters("torch.optim.AdamW")
    assert taken is not None
    assert {"lr", "betas"} <= taken


def test_lines_of_keys():
    assert lines_of_keys("a: 1\nb:\n  c: 2", "model") == {
        "model.a": 1,
        "model.b": 2,
        "model.b.c": 3,
    }
    assert lines_of_keys(GLOBAL + "a: 1", "experiment") == {"a": 2}
