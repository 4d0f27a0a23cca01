"""everytoken as a contestant: as `python -m train` builds it, and its model in a bare loop."""

import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import torch
from omegaconf import DictConfig

from benchmarks.corpora import Corpus, id_tokenizer
from benchmarks.gate import Gate
from everytoken.batch import Batch
from everytoken.commands.build import build_data, build_module, build_trainer
from everytoken.commands.length import length_of
from everytoken.config.keys import conf_dir
from everytoken.run.directory import Run
from everytoken.training.contract import computes_on_padding
from everytoken.training.loss import target_sums
from everytoken.training.module import TokenModule


class Turns(L.Callback):
    """Waits between optimizer steps."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Everything is built."""
        assert isinstance(pl_module, TokenModule)
        self.gate.ready(sum(p.numel() for p in pl_module.model.parameters()))

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: list[Batch],
        batch_idx: int,
    ) -> None:
        """Count the step. This callback is the last: the others belong to the step."""
        assert isinstance(pl_module, TokenModule)

        def logged() -> float | None:
            loss = trainer.callback_metrics.get("train/loss")
            return None if loss is None else float(loss)

        self.gate.step(*counts(pl_module, batch), logged)


def counts(module: TokenModule, batches: list[Batch]) -> tuple[int, int]:
    """Real tokens and computed positions of an optimizer step."""
    on_padding = computes_on_padding(module.model)
    computed = sum(b.padded_count if on_padding else b.unpadded_count for b in batches)
    return sum(b.real_count for b in batches), computed


def configure(overrides: list[str], corpus: str | None) -> DictConfig:
    """The config of `python -m train OVERRIDES`, on a corpus of ids if there is one."""
    cfg = composed([*overrides, "logger=csv", "callbacks=none"])
    if corpus is not None:
        cfg.data.corpus = {"_target_": "benchmarks.corpora.Ids", "path": corpus}
    return cfg


def composed(overrides: list[str]) -> DictConfig:
    """The config of `python -m train OVERRIDES`."""
    import_module("everytoken.hf.config")  # gives the config its resolver
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("train", overrides)


def everytoken(gate: Gate, overrides: list[str], corpus: str | None, total_steps: int) -> None:
    """A contestant: the training that `python -m train` does, with Hydra, Lightning and logging."""
    cfg = configure([*overrides, f"trainer.max_steps={total_steps}", *never_validate()], corpus)
    train(gate, cfg, corpus, total_steps)


def validating(gate: Gate, overrides: list[str], corpus: str | None, total_steps: int) -> None:
    """A contestant: the same with the loggers, callbacks and validations that are asked for."""
    train(gate, composed([*overrides, f"trainer.max_steps={total_steps}"]), corpus, total_steps)


def train(gate: Gate, cfg: DictConfig, corpus: str | None, total_steps: int) -> None:
    """Train as `python -m train` does, in a directory of its own, and wait between steps."""
    run = Run.create(Path(tempfile.mkdtemp(dir=".")).absolute(), cfg)
    cfg = run.config
    data, module = build(cfg, corpus, total_steps)
    trainer = build_trainer(cfg, run, length_of(cfg, data), module.val_metrics)
    trainer.callbacks.append(Turns(gate))  # pyright: ignore[reportAttributeAccessIssue]
    torch.manual_seed(cfg.seed)
    trainer.fit(module, datamodule=data)


def bare(gate: Gate, overrides: list[str], corpus: str | None, total_steps: int) -> None:
    """A contestant: the same data, model, loss and optimizer in a loop of a dozen lines."""
    cfg = configure([*overrides, f"trainer.max_steps={total_steps}"], corpus)
    data, module = build(cfg, corpus, total_steps)
    model, head = module.model.train(), module.head
    parts = module.configure_optimizers()
    optimizer, scheduler = parts["optimizer"], parts["lr_scheduler"]
    bf16 = cfg.precision.name == "bf16"
    torch.manual_seed(cfg.seed)
    gate.ready(sum(p.numel() for p in model.parameters()))
    for batches in data.train_dataloader():
        share = 1 / sum(b.target_count for b in batches)
        total = 0.0
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                sums = target_sums(model(batch), head, batch.targets, cfg.label_smoothing)
            (sums.loss * share).backward()
            total = total + sums.loss.detach() * share
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.trainer.gradient_clip_val)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        gate.step(*counts(module, batches), lambda total=total: float(total))


def never_validate() -> list[str]:
    """Overrides that leave validation to the end, which isn't reached."""
    return ["trainer.val_check_interval=1000000000"]


def build(cfg: DictConfig, corpus: str | None, total_steps: int) -> tuple[Any, TokenModule]:
    """Data and module of a config."""
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    tokenizer = None if corpus is None else id_tokenizer(Corpus.load(corpus).vocabulary)
    data = build_data(cfg, ("train", "val"), tokenizer)
    return data, build_module(cfg, data.tokenizer, total_steps)
