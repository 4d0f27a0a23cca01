"""Each key of each choice, set to what it can't be: one line that says so, or it is fine."""

from itertools import product
from typing import Any

import pytest
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from everytoken.commands.factory import factory
from everytoken.config.cli import explain
from everytoken.config.keys import conf_dir, key_paths
from everytoken.config.secrets import settled
from everytoken.config.values import check_training
from everytoken.errors import UserError
from support.helpers import composed

pytestmark = pytest.mark.bad_input

WRONG: tuple[Any, ...] = (None, "%s", -1, 2**63, [1])
BUILT = ("callbacks", "metrics", "decoding")
"""Groups whose parts are cheap to build, and touch nothing."""
NEEDED = {
    "data=pairs": ["data.source=a.en", "data.target=a.de"],
    "data=text": ["data.path=a.txt", "task=causal_lm"],
    "data=hub": ["data.name=a/b"],
    "data=chat": ["task=sft", "data.path=a.jsonl"],
    "data=chat_dates": ["task=sft"],
    "task=sft": ["data=chat_dates"],
    "data=labelled": ["task=sequence_classification", "data.path=a.csv"],
    "data=date_languages": ["task=sequence_classification"],
    "task=sequence_classification": ["data=date_languages"],
    "task=multi_label_classification": ["data=date_languages"],
    "data=tagged": ["task=token_classification", "data.path=a.conll"],
    "data=date_parts": ["task=token_classification"],
    "task=token_classification": ["data=date_parts"],
    "data=multi30k": ["data.path=folder"],
    "data=tokens": ["task=causal_lm", "data.path=a.bin"],
    "data=mix": ["data.parts={a: {data: dates}, b: {data: dates}}"],
    "data=prepared": ["data.path=folder"],
    "data=pydoc": ["task=causal_lm"],
    "task=causal_lm": ["data=pydoc"],
    "task=masked_lm": ["data=pydoc"],
    "tokenizer=pretrained": ["tokenizer.path=folder"],
    "adapter=lora": ["init_from=."],
}
GROUPS = ("task", "model", "data", "tokenizer", "module", "optimizer", "scheduler", "trainer")
FROM_ELSEWHERE = ("hf", "llama_from_hf")
ALL = (*GROUPS, *BUILT, "precision", "logger", "parameter_groups", "adapter")


@pytest.mark.parametrize("group", ALL)
def test_no_value_gives_a_traceback(group: str):
    seen: set[str] = set()
    for file in sorted((conf_dir() / group).glob("*.yaml")):
        if file.stem in FROM_ELSEWHERE:
            continue
        choice = f"{group}={file.stem}"
        usual = "seed=1" if group == "logger" else "logger=none"
        cfg = composed(usual, choice, *NEEDED.get(choice, []))
        if OmegaConf.missing_keys(cfg):
            continue  # a choice of a fork's own, which needs settings
        cfg = settled(cfg)
        OmegaConf.set_struct(cfg, False)
        keys = {group, *key_paths(cfg[group], f"{group}.")} - seen
        seen |= keys
        for key, value in product(sorted(keys), WRONG):
            wrong = cfg.copy()
            OmegaConf.update(wrong, key, value, merge=False)
            assert "\n" not in answer(wrong, group), (key, value)
    assert seen


def answer(cfg: DictConfig, group: str) -> str:
    """What is said to a config, as the command line says it; anything else is raised."""
    try:
        check_training(cfg)
        parts = cfg[group] if group in BUILT else {}
        if parts.get("_target_"):
            factory(cfg, group)()
        for name in parts:
            if isinstance(parts[name], DictConfig) and parts[name].get("_target_"):
                factory(cfg, f"{group}.{name}")()
    except UserError as error:
        return str(error)
    except (HydraException, OmegaConfBaseException) as error:
        return explain(error, "train")
    return ""
