"""Sub-command checkpoints: which share of the training time the default checkpoints take."""

import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import torch
from lightning.pytorch.profilers import SimpleProfiler

from benchmarks import report
from benchmarks.contest import console
from everytoken.commands.build import build_data, build_module, build_trainer
from everytoken.commands.length import length_of
from everytoken.config.keys import conf_dir
from everytoken.hf import config as hf_config  # noqa: F401 (the config names a resolver of it)
from everytoken.run.directory import Run


def checkpoints(arguments: Namespace) -> int:
    """The default run with two sizes of model, its validations and its checkpoints as they are."""
    torch.set_num_threads(arguments.threads)
    found: dict[str, dict[str, Any]] = {}
    for model in arguments.models:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            overrides = [f"model={model}", f"data.limit_examples={arguments.examples}"]
            overrides += [f"data.corpus.train_examples={arguments.examples}"]
            overrides += ["logger=none", f"trainer.max_steps={arguments.steps}"]
            found[model] = measure(Path(folder) / "run", overrides)
    columns = ("run", "s of training", "saves", "ms a save", "MB", "share of the time")
    table = report.grid(*columns, markdown=arguments.markdown)
    for model, r in found.items():
        each = 1000 * r["saving"] / r["saves"]
        row = f"{r['training']:.1f}", str(r["saves"]), f"{each:.0f}", f"{r['bytes'] / 1e6:.1f}"
        table.add_row(f"model={model}", *row, f"{r['saving'] / r['training']:.2%}")
    report.show(table)
    console.print("training: with validations; saves: last.ckpt and best.ckpt, synced to the disk")
    report.write(arguments, found)
    return 0


def measure(path: Path, overrides: list[str]) -> dict[str, Any]:
    """Seconds of training and of saving, and number and size of the checkpoints, of one run."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        run = Run.create(path, hydra.compose("train", overrides))
    cfg = run.config
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    data = build_data(cfg, ("train", "val"))
    steps = cfg.trainer.max_steps
    module = build_module(cfg, data.tokenizer, steps)
    trainer = build_trainer(cfg, run, length_of(cfg, data), module.val_metrics)
    profiler = SimpleProfiler()
    trainer.profiler = profiler  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit(module, datamodule=data)
    if trainer.global_step < steps:
        raise KeyboardInterrupt  # the run has stopped as it should, and half of it says nothing
    durations = profiler.recorded_durations
    return {
        "training": sum(durations["run_training_epoch"]),
        "saving": sum(durations["save_checkpoint"]),
        "saves": len(durations["save_checkpoint"]),
        "bytes": run.checkpoint("last").stat().st_size,
    }
