"""The job behind `python -m train`, as each rank runs it: fit, validate, test, summarise."""

import time
from pathlib import Path
from typing import TypeVar

import lightning as L
import torch
from rich.console import Group
from rich.table import Table

from everytoken.callbacks.averaging import AveragedWeights
from everytoken.callbacks.early_end import lost, told
from everytoken.callbacks.stop import StopOnRequest
from everytoken.callbacks.throughput import Throughput
from everytoken.commands.adapting import adapt
from everytoken.commands.beginning import Beginning
from everytoken.commands.build import build_data, build_module, build_trainer
from everytoken.commands.length import Length, length_of
from everytoken.commands.memory import explained, fewer_tokens
from everytoken.config.literal import shown_command
from everytoken.data.datamodule import TokenDataModule
from everytoken.data.report import DataReport
from everytoken.errors import BrokenRunError
from everytoken.model.backends import select_backend
from everytoken.model.precision import compute_dtype, unused_gpu, warning
from everytoken.model.transformer import Transformer
from everytoken.report.callback import WriteReport
from everytoken.report.collect import REPORT
from everytoken.report.compare import run_before
from everytoken.run.checkpoint_file import CheckpointFiles, check_resumable, step_of
from everytoken.run.directory import Run
from everytoken.run.metrics_file import MetricsFile
from everytoken.run.newest_checkpoint import data_state, newest_good
from everytoken.runtime.console import INDENT, log, warn
from everytoken.runtime.files import write_json
from everytoken.runtime.rendezvous import meet
from everytoken.runtime.signals import Stopped, stop_requests
from everytoken.runtime.together import together
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.answers import cut_off, too_short
from everytoken.training.contract import computes_on_padding
from everytoken.training.frozen import trained_in_words
from everytoken.training.loss import is_fused
from everytoken.training.module import TokenModule

Part = TypeVar("Part", bound=L.Callback)

HELD_OUT = ("val", "test")


def train(run_dir: str) -> None:
    """Train the run of a directory, evaluate its best checkpoint, write summary.json."""
    run = Run(Path(run_dir))
    try:
        _train(run)
    except Stopped as left:
        if not left.agreed:
            log(departure(run, "no step was saved yet"))
        raise


def _train(run: Run) -> None:
    cfg = run.config
    stop_requests.limit_hours(cfg.trainer.time_limit)
    meet(cfg.trainer.hang_timeout)
    started = time.perf_counter()
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    with together("preparing data"):
        checkpoint = newest_good(run.checkpoint("last").parent)
        begun = None if checkpoint and not cfg.get("adapter") else Beginning.of(cfg, run)
        # What was trained with one tokenizer goes on with it, even if the texts have changed.
        tokenizer = Tokenizer.load(run.tokenizer_file) if checkpoint else begun and begun.tokenizer
        data = build_data(cfg, ("train", "val", "test"), tokenizer)
    if checkpoint:  # before its length is asked for
        data.know(data_state(checkpoint, data))
    length = length_of(cfg, data)
    to_shard = cfg.trainer.strategy == "fsdp"
    with together("building the model"):
        module = build_module(cfg, data.tokenizer, length.steps, to_shard=to_shard)
        origin = begun and begun.fill(module, data.tokenizer)
        adapt(cfg, module)
        if checkpoint:
            check_resumable(module, checkpoint)
    trainer = build_trainer(cfg, run, length, module.val_metrics)
    if trainer.is_global_zero and not checkpoint:
        data.tokenizer.save(run.tokenizer_file)
        MetricsFile(run).cut(0)  # of a run that was killed before its first checkpoint
    report = DataReport.of(data, computes_on_padding(module.model))
    if trainer.is_global_zero:
        write_json(run.data_file, report.as_json())
    log(introduction(run, trainer, module, data, length))
    if origin and not checkpoint:
        log(origin)
    log(report)
    device = trainer.strategy.root_device
    with trainer.precision_plugin.forward_context():
        slow = warning(device, compute_dtype(torch.empty(0, device=device)))
    short = (too_short(module.max_new_tokens, data.splits[s].longest_answer, s) for s in HELD_OUT)
    unused = unused_gpu(cfg.trainer.accelerator)
    for line in filter(None, [*report.warnings(), slow, unused, *short]):
        warn(line)
    readers = trainer.world_size // cfg.trainer.tensor_parallel
    if idle := data.idle_ranks(readers):
        warn(
            f"{idle} of {readers} ranks never get an example: raise "
            "data.batch_size or data.batch_tokens, or lower trainer.devices"
        )
    if data.curriculum_epochs and length.epochs < 1:
        warn(
            "training ends within the first epoch, which data.curriculum_epochs begins with short "
            "examples: the longest are never trained on; raise trainer.max_steps, or leave it out"
        )
    if cfg.compile:
        # In place, so that names in checkpoints stay as they are; dynamic, or each new length
        # would be compiled anew.
        module.model.compile(dynamic=True)
    ready = time.perf_counter()
    advice = fewer_tokens(cfg.data.microbatch_tokens, place="")
    with explained(module, advice, cfg):
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    CheckpointFiles.of(trainer).wait()
    if reason := _part(trainer, StopOnRequest).reason:
        stopped = Stopped(reason, agreed=True)
        kept = departure(run, "no callback saves last.ckpt")
        log(f"stopped at step {trainer.global_step} ({stopped.reason}); {kept}")
        raise stopped
    if early := told(trainer, run, cfg.callbacks):
        log(early)
    wrong = lost(trainer)
    summary = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
    with explained(module, advice, cfg):
        summary |= evaluate(trainer, module, data, run.checkpoint("best"))
    summary |= _throughput(trainer)
    summary |= {
        "steps": trainer.global_step,
        "parameters": sum(p.numel() for p in module.model.parameters()),
        "processes": trainer.world_size,
        "seconds/startup": ready - started,
        "seconds/fit": _part(trainer, Throughput).fit_seconds,
    }
    if trainer.is_global_zero:
        for callback in _callbacks(trainer):
            if isinstance(callback, WriteReport):
                callback.write(trainer, "running", summary)
        write_json(run.summary_file, summary)
        log(conclusion(run, summary))
    if wrong:
        raise BrokenRunError(wrong)


def evaluate(
    trainer: L.Trainer, module: TokenModule, data: TokenDataModule, checkpoint: Path
) -> dict[str, float]:
    """Metrics on the validation and test split: of a checkpoint, or as trained if there is none.

    `best/step` is the checkpoint's. No logger is given the validation again: as a point at the last
    step, what an earlier checkpoint can do would end the curve.
    """
    results: dict[str, float] = {}
    loggers, trainer.loggers = trainer.loggers, []
    # It would load the weights that were averaged, not their average.
    callbacks = [c for c in _callbacks(trainer) if not isinstance(c, AveragedWeights)]
    trainer.callbacks = callbacks  # pyright: ignore[reportAttributeAccessIssue]
    path = checkpoint if checkpoint.exists() else None
    for split, run_split in zip(HELD_OUT, (trainer.validate, trainer.test), strict=True):
        found = run_split(module, datamodule=data, ckpt_path=path, weights_only=True, verbose=False)
        results |= {name: value for name, value in found[0].items() if name != "step"}
        if line := cut_off(module.evaluated.cut_off, split):
            warn(line)
    step = trainer.global_step
    if path is not None:
        step = step_of(path)
        results["best/step"] = step
    trainer.loggers = loggers
    tested = {name: value for name, value in results.items() if name.startswith("test/")}
    for logger in loggers:
        if not isinstance(logger, MetricsFile):  # which holds curves; summary.json has the results
            logger.log_metrics(tested, step)
    return results


def introduction(
    run: Run, trainer: L.Trainer, module: TokenModule, data: TokenDataModule, length: Length
) -> str:
    """What is going to happen, in a few lines."""
    device = torch.device(trainer.strategy.root_device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    with trainer.precision_plugin.forward_context():
        ways = backends(module, device)
    split = getattr(trainer.strategy, "tensor_parallel", 1)
    mesh = f" ({trainer.world_size // split} data x {split} tensor)" if split > 1 else ""
    return (
        f"{run.identity['name']} in {run.shown}\n"
        f"{type(module.model).__name__} of {trained_in_words(module.model)}, "
        f"vocabulary {len(data.tokenizer):,}\n"
        f"{trainer.world_size} x {name}{mesh} in {trainer.precision}, {ways}\n"
        f"{length}"
    )


def backends(module: TokenModule, device: torch.device) -> str:
    """By which ways the model attends and the loss is computed."""
    dtype = compute_dtype(torch.empty(0, device=device))
    loss = f"loss {'fused' if is_fused(module.head) else 'plain'}"
    if type(module).target_sums is not TokenModule.target_sums:
        loss = f"loss of {type(module).__name__}"
    if not isinstance(module.model, Transformer):
        return loss
    return f"attention {select_backend(module.model.attention, device, dtype)}, {loss}"


def conclusion(run: Run, summary: dict[str, float]) -> Group:
    """Results, of the best checkpoint or else of the last step, and where everything is."""
    best = summary.get("best/step")
    title = f"last step ({summary['steps']})" if best is None else f"best checkpoint (step {best})"
    table = Table(title, "validation", "test", show_edge=False, pad_edge=False)
    for name in (key.removeprefix("test/") for key in summary if key.startswith("test/")):
        values = (f"{summary[f'{split}/{name}']:.4f}" for split in ("val", "test"))
        table.add_row(name.replace("_", " "), *values)
    speed, fill = (summary[f"throughput/{k}"] for k in ("real_tokens_per_second", "fill"))
    return Group(
        "",
        table,
        "",
        f"{speed:,.0f} real tokens/s, fill {fill:.2f}, {summary['seconds/fit']:.0f} s of training",
        *next_steps(run),
    )


def departure(run: Run, if_nothing: str) -> str:
    """What is kept of a run that was stopped, and how it goes on; or why nothing is."""
    last = run.checkpoint("last")
    if not last.exists():
        return f"nothing is kept: {if_nothing}"
    again = f"goes on with:\n{INDENT}{shown_command('train', resume=run.shown)}"
    return f"kept checkpoints/last.ckpt of step {step_of(last)}, {again}"


def next_steps(run: Run) -> list[str]:
    """Where everything is, and what to do with it: each command works as it stands."""
    keeps = any(run.checkpoint(name).exists() for name in ("best", "last"))
    kept = "checkpoints/, metrics.csv" if keeps else "metrics.csv"
    lines = [f"{kept} and summary.json are in {run.shown}"]
    if (run.path / REPORT).exists():
        lines.append(f"curves, examples and settings, for a browser: {run.shown / REPORT}")
    if keeps:
        best = {} if run.checkpoint("best").exists() else {"checkpoint": "last"}
        lines += ["try it:", INDENT + shown_command("generate", run=run.shown, **best)]
    if before := run_before(run):
        pair = [str(before.shown), str(run.shown)]
        lines += ["lay it over the run before:", INDENT + shown_command("compare", run=pair)]
    else:
        lines += ["lay runs over each other:", INDENT + shown_command("compare", "--help")]
    return lines


def _throughput(trainer: L.Trainer) -> dict[str, float]:
    measured = _part(trainer, Throughput)
    return {
        "throughput/real_tokens_per_second": measured.total_real / measured.total_seconds,
        "throughput/fill": measured.total_real / measured.total_computed,
        "real_tokens": measured.total_real,
    }


def _part(trainer: L.Trainer, kind: type[Part]) -> Part:
    return next(callback for callback in _callbacks(trainer) if isinstance(callback, kind))


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    return trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
