"""A config of somebody else calls no code but this project's."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from everytoken.config.keys import conf_dir
from everytoken.config.trust import check_data, check_targets, is_own, named_in_conf, typed_names
from everytoken.config.values import check_training
from everytoken.errors import UserError
from everytoken.run.directory import Run
from support.helpers import assert_refused, composed, run


def test_what_conf_names_is_trusted_and_nothing_else_of_the_package():
    assert {"everytoken.model.Transformer", "torch.optim.AdamW"} <= named_in_conf()
    check_training(composed())
    check_targets(composed(), "this config")
    with pytest.raises(UserError, match=r"_target_=everytoken\.runtime\.launch\.launch.*SECURITY"):
        check_targets(
            composed("optimizer._target_=everytoken.runtime.launch.launch"), "this config"
        )


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "hidden",
    [
        {"_target_": "os.system"},
        {"a": [1, {"b": {"_target_": "os.system"}}]},
        {"_target_": "torch.optim.AdamW", "lr": {"_target_": "os.system"}},
        {"_target_": "torch.optim.AdamW", "_args_": [{"_target_": "os.system"}]},
        {"name": "os.system", "part": {"_target_": "${name}"}},
        {"part": "${oc.create:{_target_:os.system}}"},
        {"_target_": "everytoken.corpora.files.os.system"},
    ],
)
def test_a_target_is_found_wherever_it_hides(hidden: dict):
    with pytest.raises(UserError, match=r"x\.yaml names _target_=.*os\.system.*conf/"):
        check_targets(OmegaConf.create(hidden), "x.yaml")


def test_what_the_user_has_typed_is_the_users_own():
    cfg = OmegaConf.create({"callbacks": {"mine": {"_target_": "my.Callback"}}})

    def check(override: str) -> None:
        check_targets(cfg, "this config", typed_names([override]))

    check("+callbacks.mine._target_=my.Callback")
    check("+callbacks.mine={_target_: my.Callback, x: 1}")
    check("trust=my.Callback")
    with pytest.raises(UserError, match=r"my\.Callback"):
        check("+callbacks.mine._target_=my.Callbacks")


def test_what_is_not_built_may_name_anything():
    cfg = OmegaConf.create({"callbacks": {"mine": {"_target_": "my.Callback"}}})
    check_targets(cfg, "this config", skip=["callbacks"])


def test_code_in_src_is_the_users_own_but_not_the_engine():
    own = [file for file in (conf_dir().parent / "src").iterdir() if file.is_dir()]
    [room] = [folder.name for folder in own if (folder / "model.py").is_file()]
    assert is_own(f"{room}.model.LSTM")
    for other in (
        f"{room}.model.nn.Linear",  # only imported there
        f"{room}.model.torch.hub.load",
        f"{room}.model.Missing",
        f"{room}.missing.LSTM",
        "everytoken.runtime.rank.call",
        "train.main",
        "os.system",
        "LSTM",
    ):
        assert not is_own(other)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("metrics", {"x": "${oc.decode:'{_target_: torch.hub.load}'}"}),
        ("metrics", {"x": {"_target_": "${oc.env:NAME}"}}),
        ("model", {"_target_": "${evil.${trainer.accelerator}}"}),
        ("model", {"_target_": "${evil}"}),
        ("name", "${oc.create:{a: 1}}"),
        ("name", "${hf_config:${oc.env:NAME}}"),
    ],
)
def test_a_run_computes_nothing_when_it_is_read(key: str, value: object):
    cfg = OmegaConf.create({key: value})
    with pytest.raises(UserError, match=r"x\.yaml computes .*plain values.*SECURITY"):
        check_data(cfg, "x.yaml")


def test_a_run_may_name_the_environment_and_other_values():
    check_data(OmegaConf.create({"a": '${oc.env:HOME,"~/.cache"}/x', "b": "${a}/y"}), "x.yaml")


EVIL = {
    "_target_": "everytoken.runtime.rank.call",
    "job": "os:mkdir",
    "arguments": {"path": "made"},
}
"""Makes a folder; not in Hydra's own list of what may not be called."""


@pytest.fixture
def foreign(tmp_path: Path) -> Run:
    """A run directory whose config would make a folder when the model is built."""
    cfg = composed()
    check_training(cfg)
    made = Run.create(tmp_path / "foreign", cfg)
    cfg = OmegaConf.load(made.config_file)
    cfg.model = {"_target_": "everytoken.model.Transformer", "layers": EVIL}
    OmegaConf.save(cfg, made.config_file)
    return made


@pytest.mark.bad_input
@pytest.mark.parametrize("command", ["eval run=foreign", "generate run=foreign"])
def test_a_foreign_run_is_refused(tmp_path: Path, foreign: Run, command: str):
    before = sorted(tmp_path.rglob("*"))
    answer = run(tmp_path, *command.split())
    assert_refused(answer, "foreign/config.yaml", "everytoken.runtime.rank.call", "SECURITY.md")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.bad_input
@pytest.mark.parametrize("command", ["train", "audit"])
def test_nor_is_a_foreign_run_repeated(tmp_path: Path, foreign: Run, command: str):
    before = sorted(tmp_path.rglob("*"))
    words = f"{command} --config-dir foreign --config-name config"
    assert_refused(run(tmp_path, *words.split()), "everytoken.runtime.rank.call", "SECURITY.md")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("callbacks", {"x": EVIL}),
        ("job_logging", {"version": 1, "filters": {"x": {"()": "os.mkdir", "path": "made"}}}),
        ("job", {"env_set": {"LD_PRELOAD": "evil.so"}}),
        ("searchpath", ["pkg://evil"]),
        ("launcher", {"_target_": "os.mkdir"}),
    ],
)
def test_a_foreign_config_gives_hydra_nothing_to_call(
    tmp_path: Path, foreign: Run, setting: str, value: object
):
    cfg = OmegaConf.load(foreign.config_file)
    cfg.model = composed().model
    cfg.hydra[setting] = value
    OmegaConf.save(cfg, foreign.config_file)
    before = sorted(tmp_path.rglob("*"))
    words = "train --config-dir foreign --config-name config"
    assert_refused(run(tmp_path, *words.split()), f"hydra.{setting}", "command line")
    assert sorted(tmp_path.rglob("*")) == before
