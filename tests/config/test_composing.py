"""What is asked for again is what Hydra would compose, and isn't composed again."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, ListConfig

from everytoken.config import composing
from everytoken.config.composing import composed
from everytoken.config.keys import conf_dir

WORDS = [
    "model.layers=1",
    "task=causal_lm",
    "+optimizer.more={a: [1, two]}",
    "hydra.job.chdir=true",
]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What Hydra composed."""
    made: list[Any] = []
    anew = composing._anew
    monkeypatch.setattr(composing, "_anew", lambda *asked: made.append(asked) or anew(*asked))
    composing._pickled.cache_clear()
    yield made
    composing._pickled.cache_clear()


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A conf/ of its own."""
    shutil.copytree(conf_dir(), tmp_path / "conf")
    monkeypatch.setattr(composing, "conf_dir", lambda: tmp_path / "conf")
    return tmp_path / "conf"


def everything(node: Any, place: str = "") -> Iterator[tuple[Any, ...]]:
    """Values as they are written, and what OmegaConf keeps of each."""
    inside = node._content if isinstance(node, DictConfig | ListConfig) else node._val
    own = node._metadata
    kept = (own.flags, own.ref_type, own.object_type, own.optional)
    if isinstance(inside, dict | list):
        yield place, *kept
        for key, value in inside.items() if isinstance(inside, dict) else enumerate(inside):
            yield from everything(value, f"{place}.{key}")
    else:
        yield place, *kept, inside


def test_again_it_is_all_that_hydra_would_compose(
    counted: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed(conf_dir(), "train", WORDS)
    monkeypatch.chdir(tmp_path)
    again = composed(conf_dir(), "train", WORDS)
    assert len(counted) == 1
    anew = composing._anew(conf_dir(), "train", tuple(WORDS))
    assert [*everything(again)] == [*everything(anew)]
    again.model.layers = 7
    assert composed(conf_dir(), "train", WORDS).model.layers == 1
    assert composed(conf_dir(), "train", WORDS[1:]).model.layers != 1
    assert composed(conf_dir(), "eval", []) != again


def test_a_file_that_was_changed_is_read(counted: list[Any], conf: Path) -> None:
    file = conf / "seeds" / "one.yaml"
    file.parent.mkdir()
    for seed in (11, 12):
        file.write_text(f"# @package _global_\nseed: {seed}\n")
        assert composed(conf, "train", ["+seeds=one"]).seed == seed
    (conf / "model" / ".#tiny.yaml").symlink_to("somebody@here")  # an editor's
    file.rename(file.with_name("two.yaml"))
    assert composed(conf, "train", ["+seeds=two"]).seed == 12


def test_a_variable_that_chooses_is_looked_at(
    counted: list[Any], conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = "defaults:\n- train\n- override /model: ${oc.env:MODEL}\n- _self_\n"
    (conf / "chosen.yaml").write_text(chosen)
    layers = []
    for model in ("tiny", "small", "tiny"):
        monkeypatch.setenv("MODEL", model)
        layers.append(composed(conf, "chosen", []).model.layers)
    assert layers[0] == layers[2] != layers[1]
    assert len(counted) == 2


def test_other_folders_are_read_every_time(counted: list[Any], tmp_path: Path, conf: Path) -> None:
    file = tmp_path / "own" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    own, search = file.parents[1], f"hydra.searchpath=['file://{file.parents[1]}']"
    for seed in (11, 12):
        file.write_text(f"# @package _global_\nseed: {seed}\n")
        assert composed(own, "train", ["experiment=mine"]).seed == seed
        assert composed(conf, "train", ["experiment=mine", search]).seed == seed
    (conf / "mine.yaml").write_text(
        f"defaults:\n- train\n- experiment@_global_: mine\nhydra:\n  searchpath: ['file://{own}']\n"
    )
    for seed in (13, 14):
        file.write_text(f"# @package _global_\nseed: {seed}\n")
        assert composed(conf, "mine", []).seed == seed
