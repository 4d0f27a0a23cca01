"""What is typed and would change nothing, because another setting has the last word."""

import re

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from everytoken.config.keys import typed
from everytoken.config.unused_data import check_used_data
from everytoken.errors import UserError

NAMES = ("path", "source", "split")
"""Ends of keys that say which examples are held out, where a share does so otherwise."""


def check_used(cfg: DictConfig) -> None:
    """Refuse a share to hold out of what is held out by name, settings that a corpus has no use
    for, and a decoding of what is never generated. A run that goes on keeps what it was begun with.

    Raises:
        UserError: with both settings.
    """
    if cfg.get("resume") is not None or not HydraConfig.initialized():
        return
    words = [re.split("=", word.lstrip("+"))[0] for word in typed("task")]
    for split in ("val", "test"):
        key, share = f"data.{split}_fraction", cfg.data.get(f"{split}_fraction")
        named = [f"data.{split}_{name}" for name in NAMES if cfg.data.get(f"{split}_{name}")]
        if key in words and share and named:
            raise UserError(
                f"{key}={share} would change nothing, since {named[0]}="
                f"{cfg.data[named[0].partition('.')[2]]} says which examples these are: leave it "
                f"out, or set {named[0]}=null"
            )
    check_used_data(cfg, typed("task"))
    if cfg.task.shape == "encoder" and any(word.split(".")[0] == "decoding" for word in words):
        raise UserError(
            f"task={cfg.task.name} generates nothing, so decoding would change nothing: leave it "
            "out"
        )
