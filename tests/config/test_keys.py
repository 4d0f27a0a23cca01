"""Every setting is described, has its default in one place, and is asked for by its own name."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from everytoken.config.keys import check_keys, conf_dir, did_you_mean, key_paths
from everytoken.errors import UserError
from support.helpers import composed


def test_every_setting_says_what_it_is():
    for file in conf_dir().rglob("*.yaml"):
        lines = file.read_text(encoding="utf-8").splitlines()
        first = next(line for line in lines if not line.startswith("# @package"))
        described = first.startswith("#") or file.parent.name in ("task", "optimizer", "scheduler")
        assert described, f"{file} doesn't say what it chooses"


def test_a_default_is_set_in_one_place():
    """Classes that YAML configures have no defaults of their own for what YAML sets."""
    import inspect

    from hydra.utils import get_object

    found = 0
    for file in conf_dir().rglob("*.yaml"):
        cfg = OmegaConf.load(file)
        assert isinstance(cfg, DictConfig)
        for node in [cfg, *(cfg.get(key) for key in ("corpus", "objective"))]:
            target = node.get("_target_") if isinstance(node, DictConfig) else None
            if target is not None and target.startswith("everytoken."):
                for parameter in inspect.signature(get_object(target)).parameters.values():
                    if parameter.name in node:
                        assert parameter.default is parameter.empty, f"{target}: {parameter.name}"
                        found += 1
    assert found > 15


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("trainer.max_step", "trainer.max_steps"),
        ("dropout", "model.dropout"),
        ("modl", "model"),
        ("model.dropuot", "model.dropout"),
        ("max_steps", "trainer.max_steps"),
        ("data.microbatch_token", "data.microbatch_tokens"),
    ],
)
def test_a_misspelt_key_is_answered_with_the_nearest_real_one(key: str, nearest: str):
    known = list(key_paths(composed()))
    assert did_you_mean(key, known) == f": did you mean {nearest}?"


def test_a_key_like_no_other_is_answered_with_where_to_look():
    assert did_you_mean("xyzzy", key_paths(composed())) == ": see --cfg job for all keys"


@pytest.mark.bad_input
def test_added_keys_are_refused_unless_some_yaml_has_them():
    def check(*overrides: str) -> None:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("train", list(overrides), return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            with_task_only = cfg.copy()
            OmegaConf.set_struct(with_task_only, False)
            del with_task_only["hydra"]
            check_keys(with_task_only)

    check("++trainer.max_steps=7")
    check("trainer.max_steps=7")
    check("+optimizer.amsgrad=true")
    check(
        "+callbacks.mine._target_=lightning.pytorch.callbacks.Timer", "+callbacks.mine.duration=1"
    )
    with pytest.raises(UserError, match=r"optimizer\.amsgrat.*optimizer\.amsgrad"):
        check("+optimizer.amsgrat=true")
    with pytest.raises(UserError, match=r"callbacks\.mine"):
        check("+callbacks.mine.duration=1")
    with pytest.raises(UserError, match=r"optimizer\.weigth_decay.*optimizer\.weight_decay"):
        check("+optimizer.weigth_decay=0.1")
    with pytest.raises(UserError, match=r"unknown key nothing_like_it"):
        check("++nothing_like_it=1")


def test_conf_is_found_beside_the_package_or_inside_it():
    assert (conf_dir() / "train.yaml").is_file()
    assert isinstance(conf_dir(), Path)
