"""Names of older versions lead to what they named."""

import inspect
from collections.abc import Mapping

from hydra.utils import get_object
from omegaconf import OmegaConf

from everytoken.config.moved import ARGUMENTS, MOVED, moved_key, up_to_date
from everytoken.config.trust import named_in_conf
from support.helpers import composed


def test_moved_names_lead_to_what_conf_names_today():
    assert set(MOVED.values()) <= named_in_conf()
    assert not set(MOVED) & named_in_conf()
    for name, today in MOVED.items():
        assert get_object(today).__name__ == name.rpartition(".")[2] or "pretrained" in name
        assert callable(get_object(today))


def test_names_are_followed_wherever_they_stand():
    old = {"_target_": "everytoken.choose.Greedy", "deep": [{"_target_": "everytoken.text.Text"}]}
    cfg = OmegaConf.create(
        {"decoding": old, "model": {"attention": "grouped"}, "x": "${y}", "y": 1}
    )
    new = OmegaConf.to_container(up_to_date(cfg))
    assert new["decoding"]["_target_"] == "everytoken.decoding.Greedy"  # pyright: ignore
    assert new["decoding"]["deep"][0]["_target_"] == "everytoken.corpora.Text"  # pyright: ignore
    assert new["model"]["attention"] == "bucketed"  # pyright: ignore
    assert new["x"] == "${y}"  # pyright: ignore


def test_a_config_of_today_stays_as_it_is():
    cfg = composed()
    assert up_to_date(cfg) == cfg
    assert OmegaConf.is_struct(up_to_date(cfg)) == OmegaConf.is_struct(cfg)


def test_groups_that_came_later_do_what_was_done_before():
    cfg = composed("label_smoothing=0.1")
    OmegaConf.set_struct(cfg, False)
    for group in ("module", "parameter_groups", "decoding"):
        del cfg[group]
    new = up_to_date(cfg)
    assert new.module == {
        "_target_": "everytoken.training.TokenModule",
        "label_smoothing": 0.1,
        "z_loss": 0.0,
    }
    assert inspect.isfunction(get_object(new.parameter_groups._target_))
    assert new.decoding == {"_target_": "everytoken.decoding.Greedy"}


def test_lightnings_averages_are_ours_with_the_decay_that_they_had():
    ema = {"_target_": "lightning.pytorch.callbacks.EMAWeightAveraging", "decay": 0.9}
    mean = {"_target_": "lightning.pytorch.callbacks.WeightAveraging"}
    new = up_to_date(OmegaConf.create({"callbacks": {"ema": ema, "mean": mean}})).callbacks
    assert new.ema == {
        "_target_": "everytoken.callbacks.ExponentialMovingAverage",
        "warm_up": False,
        "decay": 0.9,
    }
    assert new.mean == {"_target_": "everytoken.callbacks.AveragedWeights"}
    for part in new.values():
        get_object(part._target_)(**{key: value for key, value in part.items() if key[0] != "_"})


def loggers(logger: Mapping[str, object]) -> object:
    return OmegaConf.to_container(up_to_date(OmegaConf.create({"logger": logger})).logger)


def test_the_one_logger_of_an_older_run_has_a_name_now():
    wandb = {"_target_": "everytoken.tracking.wandb_logger", "mode": "offline"}
    assert loggers(wandb) == {"wandb": wandb}
    assert loggers({"_target_": None}) == {}
    own = {"_target_": "mine.Logger", "settings": {"a": 1}}
    assert loggers({**own, "wandb": wandb}) == {"wandb": wandb, "Logger": own}


def test_its_keys_are_read_by_their_old_names():
    assert moved_key("logger.mode=offline") == "logger.wandb.mode=offline"
    assert moved_key("+logger.api_key=x") == "+logger.wandb.api_key=x"
    assert moved_key("~logger.notes") == "~logger.wandb.notes"
    for same in ("logger.wandb.mode=x", "logger=wandb", "logger.mlflow.tags=x", "data.mode=x"):
        assert moved_key(same) == same


def test_arguments_that_a_part_takes_since_are_what_was_done_before():
    for target, arguments in ARGUMENTS.items():
        signature = inspect.signature(get_object(target)).parameters
        for name, value in arguments.items():
            assert signature[name].default == value
        old = up_to_date(OmegaConf.create({"part": {"_target_": target}})).part
        assert old == {"_target_": target, **arguments}
        given = {"_target_": target, **dict.fromkeys(arguments, 1)}
        assert up_to_date(OmegaConf.create({"part": given})).part == given
