"""Runs as training leaves them, without training."""

from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from everytoken.commands.build import build_module
from everytoken.config.values import check_training
from everytoken.run.directory import Run
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.module import TokenModule
from support.helpers import composed


def config(*words: str) -> DictConfig:
    cfg = composed(*words)
    HydraConfig.instance().cfg = None  # of a test before this one
    check_training(cfg)
    return cfg


def make_run(
    folder: Path, words: list[str], tokenizer: Tokenizer
) -> tuple[Run, TokenModule, Tokenizer]:
    """A run as training leaves it, with weights large enough to matter."""
    run = Run.create(folder, config(*words))
    tokenizer.save(run.tokenizer_file)
    torch.manual_seed(0)
    module = build_module(run.config, tokenizer, total_steps=1).eval()
    with torch.no_grad():
        for weight in filter(lambda weight: weight.requires_grad, module.model.parameters()):
            weight.normal_(std=0.3) if weight.ndim == 2 else weight.uniform_(0.5, 1.5)
    run.checkpoint("best").parent.mkdir()
    torch.save({"state_dict": module.state_dict()}, run.checkpoint("best"))
    return run, module, tokenizer
