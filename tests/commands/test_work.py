"""What an example costs follows from the config: the model's width, its window, what it sees."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from everytoken.commands.build import build_data
from everytoken.commands.work import work_of
from everytoken.config.check import checked
from everytoken.config.values import check_training
from everytoken.data.balance import Work


@pytest.mark.parametrize(
    ("shape", "model", "work"),
    [
        ("decoder", {"width": 512}, Work(6144)),
        ("encoder", {"width": 512, "window": None}, Work(3072)),
        ("encoder_decoder", {"width": 128}, Work(768)),
        ("decoder", {"width": 64, "window": 256}, Work(768, 256)),
        ("decoder", {"config": {"hidden_size": 2048}}, Work(24_576)),
        ("decoder", {"config": {"n_embd": 768}}, Work(9216)),
        ("encoder", {"config": {"d_model": "?"}}, Work(6144)),
        ("decoder", {}, Work(12_288)),
    ],
)
def test_work_follows_from_width_and_window(shape: str, model: dict[str, Any], work: Work):
    assert work_of(OmegaConf.create({"task": {"shape": shape}, "model": model})) == work


def test_ranks_of_a_run_share_work():
    overrides = ["task=causal_lm", "data=pydoc", "tokenizer=byte", "data.limit_examples=20"]
    cfg = checked("train", [*overrides, "model.width=64", "model.window=100"], check_training)
    assert build_data(cfg, ("train",)).topology().work == Work(768, 100)
