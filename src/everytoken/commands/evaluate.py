"""The job behind `python -m eval`, as each rank runs it, and a finished run made ready for use."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.table import Table

from everytoken.commands.build import build_data, build_evaluator, build_module
from everytoken.commands.lines import breaks_shown
from everytoken.commands.memory import explained, fewer_tokens
from everytoken.errors import UserError
from everytoken.run.checkpoint_file import load_weights
from everytoken.run.directory import Run
from everytoken.runtime.console import log
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.distributed import from_all_ranks
from everytoken.training.module import TokenModule


def evaluate(
    run_dir: str,
    split: str,
    checkpoint: str,
    trainer: dict[str, Any],
    precision: dict[str, Any] | None,
    decoding: dict[str, Any] | None,
) -> None:
    """Exact metrics of a run's checkpoint on a split; printed, and written to the run directory.

    Beside them what was generated, if anything was: a line for each example, in their order.

    Args:
        run_dir: the run.
        split: "val" or "test".
        checkpoint: "best" or "last".
        trainer: a trainer config.
        precision: a precision config; None for the run's own.
        decoding: a decoding config; None for the run's own.

    Raises:
        UserError: no such run or checkpoint; a decoding where nothing is generated.
    """
    run = Run(Path(run_dir))
    cfg = run.config
    cfg.trainer = trainer
    if precision is not None:
        cfg.precision = precision
    if decoding is not None:
        if cfg.task.max_new_tokens is None:
            raise UserError(
                f"evaluation of {run_dir} generates nothing (task.max_new_tokens=null), "
                "so decoding would change nothing: leave it out"
            )
        cfg.decoding = decoding
    tokenizer = Tokenizer.load(run.tokenizer_file)
    data = build_data(cfg, (split,), tokenizer)
    module = load_module(run, cfg, tokenizer, checkpoint)
    evaluator = build_evaluator(cfg)
    run_split = evaluator.validate if split == "val" else evaluator.test
    with explained(module, fewer_tokens(cfg.data.microbatch_tokens, f" in {run.config_file}")):
        found = run_split(module, datamodule=data, verbose=False)[0]
    results = {name: value for name, value in found.items() if name != "step"}
    texts = all_texts(module)
    if evaluator.is_global_zero:
        file = run.path / f"eval-{split}-{checkpoint}.json"
        file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        if texts:
            listed = "".join(breaks_shown(texts[index]) + "\n" for index in sorted(texts))
            file.with_suffix(".txt").write_text(listed, encoding="utf-8")
        table = Table("metric", "value", show_edge=False, caption=str(file))
        for name, value in results.items():
            table.add_row(name, f"{value:.6f}")
        log(table)


def all_texts(module: TokenModule) -> dict[int, str]:
    """What the evaluation that is just over generated, by the index of the example, on all ranks.

    To be called on all ranks.
    """
    parts = from_all_ranks(module.evaluated.texts)
    return {index: text for part in parts for index, text in part.items()}


def load_module(run: Run, cfg: DictConfig, tokenizer: Tokenizer, checkpoint: str) -> TokenModule:
    """The trained module of a run, in evaluation mode, on the CPU.

    Raises:
        UserError: no such checkpoint, or one that doesn't fit the config.
    """
    if "attention" in cfg.model:
        cfg.model.attention = "auto"  # what was forced in training may not exist on this device
    if "pretrained" in cfg.model:
        cfg.model.pretrained = False  # the checkpoint has all weights
    module = build_module(cfg, tokenizer, total_steps=1)
    load_weights(module, run.checkpoint(checkpoint))
    return module.eval()
