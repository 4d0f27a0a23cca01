"""Config → objects: data module, training module, trainer."""

import inspect
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from everytoken.callbacks.last_checkpoint import LastCheckpoint
from everytoken.callbacks.monitors import check_monitors, fill_modes
from everytoken.callbacks.nonfinite import NonFiniteSteps
from everytoken.callbacks.patience import EvaluateTogether
from everytoken.callbacks.progress import EvaluationProgress
from everytoken.callbacks.rehearsal import Rehearsal
from everytoken.callbacks.stop import StopOnRequest, keep_signals
from everytoken.callbacks.throughput import Throughput
from everytoken.callbacks.unsupported import check_supported
from everytoken.commands.factory import factory, instantiate
from everytoken.commands.length import Length
from everytoken.commands.prepared import check_prepared
from everytoken.commands.strategy import machine_arguments
from everytoken.commands.work import work_of
from everytoken.corpora.prepared import Prepared
from everytoken.corpora.splits import hold_out_at_most
from everytoken.data.datamodule import Batching, TokenDataModule
from everytoken.data.epoch import BatchBudget
from everytoken.data.fields import has_labels
from everytoken.decoding.generate import Decoding
from everytoken.decoding.sampling import Greedy
from everytoken.errors import UserError
from everytoken.hf.adapter import renew_rows
from everytoken.run.checkpoint_file import CheckpointFiles
from everytoken.run.directory import Run
from everytoken.run.metrics_file import MetricsFile
from everytoken.runtime.console import hear_others
from everytoken.runtime.memory import keep_freed
from everytoken.tokenizer.pretrained import file_of
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.deferred import built
from everytoken.training.evaluation_metrics import EvaluationMetrics
from everytoken.training.frozen import freeze
from everytoken.training.module import TokenModule


def build_data(
    cfg: DictConfig, splits: tuple[str, ...], tokenizer: Tokenizer | None = None
) -> TokenDataModule:
    """The data of a run; trains the tokenizer unless one is given."""
    parts = {"source": cfg.data.corpus, "tokenizer": cfg.tokenizer, "objective": cfg.task.objective}
    configs = {name: OmegaConf.to_container(part, resolve=True) for name, part in parts.items()}
    configs["source"] = {"corpus": configs["source"], "most": cfg.data.get("most_held_out")}
    source = hold_out_at_most(instantiate(cfg, "data.corpus"), cfg.data.get("most_held_out"))
    if isinstance(source, Prepared):
        check_prepared(cfg, source)
    return TokenDataModule(
        source=source,
        fields=list(cfg.task.fields),
        limit_examples=cfg.data.limit_examples,
        make_objective=factory(cfg, "task.objective"),
        train_tokenizer=factory(cfg, "tokenizer"),
        tokenizer=tokenizer,
        splits=splits,
        batching=Batching(
            budget=BatchBudget(cfg.data.batch_tokens, cfg.data.batch_size),
            microbatch_tokens=cfg.data.microbatch_tokens,
            work=work_of(cfg),
            padding_side=cfg.data.padding_side,
            pad_to_multiple_of=cfg.data.pad_to_multiple_of,
        ),
        num_workers=cfg.data.num_workers,
        timeout=cfg.trainer.hang_timeout,
        seed=cfg.seed,
        epochs=cfg.trainer.max_epochs,
        mixture=OmegaConf.to_container(mixture, resolve=True)  # pyright: ignore
        if (mixture := cfg.data.get("mixture"))
        else None,
        shuffle_blocks=cfg.data.get("shuffle_blocks"),
        curriculum_epochs=cfg.data.get("curriculum_epochs", 0),
        cache_dir=Path(folder) if (folder := cfg.data.get("cache_dir")) else None,
        configs=configs,
    )


def vocabulary_of(place: str) -> int:
    """Tokens that a pretrained model's own tokenizer has; a huge number if it comes without one."""
    try:
        return len(Tokenizer.load(file_of(place)))
    except UserError:
        return sys.maxsize


def build_module(
    cfg: DictConfig, tokenizer: Tokenizer, total_steps: int, *, to_shard: bool = False
) -> TokenModule:
    """The model of a run and how it is trained.

    Args:
        cfg: of the run.
        tokenizer: its own.
        total_steps: optimizer steps.
        to_shard: True for a model that has no memory before it is sharded, see `Deferred`.

    Raises:
        UserError: parts that refuse their arguments or each other.
    """
    sizes: dict[str, Any] = {"vocabulary": len(tokenizer)}
    if has_labels(fields := cfg.task.fields):
        sizes |= {"classes": len(tokenizer.labels), "per_sequence": "labels" in fields}
    make_model = factory(cfg, "model")
    taken = inspect.signature(make_model).parameters.values()
    if any(one.name == "new_tokens" for one in taken):
        sizes["new_tokens"] = tokenizer.last_special
    is_open = any(one.name == "classes" or one.kind is one.VAR_KEYWORD for one in taken)
    if "classes" in sizes and not is_open:
        raise UserError(
            f"model._target_={cfg.model._target_} tells no classes: it takes no classes and "
            "per_sequence, as everytoken.model.Transformer does; choose another model"
        )

    def make() -> nn.Module:
        model = make_model(**sizes)
        if cfg.get("adapter") and cfg.model.get("pretrained") and "new_tokens" in sizes:
            place = str(cfg.model.get("name_or_path") or cfg.model.get("path"))
            renew_rows(model, vocabulary_of(place), len(tokenizer), place)
        # Now, or a checkpoint would be rounded to what it is filled into.
        return model.double() if cfg.precision.mode == "64-true" else model

    model, deferred = built(make) if to_shard else (make(), None)
    freeze(model, cfg.get("freeze"))
    try:
        module = instantiate(
            cfg,
            "module",
            model=model,
            optimizer=factory(cfg, "optimizer"),
            parameter_groups=factory(cfg, "parameter_groups"),
            scheduler=factory(cfg, "scheduler"),
            total_steps=total_steps,
            seed=cfg.seed,
            clip_norm=cfg.trainer.gradient_clip_val,
            special=tokenizer.special,
            decode=tokenizer.decode,
            max_new_tokens=cfg.task.max_new_tokens,
            decoding=build_decoding(cfg),
            more_metrics=build_metrics(cfg, tokenizer),
            counts_bytes=cfg.task.shape == "decoder",
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    module.deferred = deferred
    return module


def build_metrics(cfg: DictConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """What evaluation counts besides loss and accuracy: the task's own, and those of the config."""
    places = {"task.metrics": cfg.task.get("metrics") or {}, "metrics": cfg.metrics}
    keys = {
        str(name): f"{place}.{name}"
        for place, parts in places.items()
        for name, part in parts.items()
        if part is not None
    }
    found = {}
    for name, key in keys.items():
        make = factory(cfg, key)
        takes_labels = "labels" in inspect.signature(make).parameters
        found[name] = make(labels=tokenizer.labels) if takes_labels else make()
    return found


def build_decoding(cfg: DictConfig) -> Decoding:
    """How evaluation generates; greedily in runs that were made before there was a choice."""
    return instantiate(cfg, "decoding") if cfg.get("decoding") else Greedy()


def build_trainer(
    cfg: DictConfig, run: Run, length: Length, metrics: EvaluationMetrics
) -> L.Trainer:
    """The trainer of a run, with its loggers and callbacks; `metrics` are those of validation."""
    quiet_lightning()
    machine = machine_arguments(cfg)
    loggers = build_loggers(cfg, run)
    watching = [logger for logger in loggers if isinstance(logger, L.Callback)]
    callbacks = build_callbacks(cfg, metrics)
    nonfinite = NonFiniteSteps(run.nonfinite_folder, cfg.trainer.skip_nonfinite_steps)
    own = [EvaluateTogether(), StopOnRequest(), Rehearsal(), Throughput(), nonfinite]
    callbacks = [*own, *watching, *callbacks]
    callbacks.sort(key=lambda callback: not isinstance(callback, LastCheckpoint))
    machine["plugins"] += [CheckpointFiles()]
    trainer = L.Trainer(
        **machine,
        max_steps=length.steps,
        max_epochs=-1,
        val_check_interval=length.validate_every,
        check_val_every_n_epoch=None,  # steps are counted on: the training stream has no end
        log_every_n_steps=min(cfg.trainer.log_every_n_steps, length.steps),
        num_sanity_val_steps=0,
        default_root_dir=run.path,
        logger=loggers,
        callbacks=callbacks,
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
    )
    if trainer.strategy.root_device.type == "cpu":
        keep_freed()
    return keep_signals(trainer)


def build_callbacks(cfg: DictConfig, metrics: EvaluationMetrics) -> list[L.Callback]:
    """Those of the config, in its order.

    Raises:
        UserError: one that can't be made, can't do here what it says, or watches the wrong thing.
    """
    fill_modes(cfg.callbacks, metrics)
    names = [str(name) for name, part in cfg.callbacks.items() if part is not None]
    callbacks = {name: instantiate(cfg, f"callbacks.{name}") for name in names}
    check_supported(callbacks, cfg.callbacks)
    check_monitors(callbacks, metrics)
    return [*callbacks.values()]


def build_loggers(cfg: DictConfig, run: Run) -> list[Logger]:
    """metrics.csv first, for trackers follow it; then those of the config that log on this rank."""
    parts = {f"logger.{key}": part for key, part in cfg.logger.items() if part is not None}
    if not parts:
        return [MetricsFile(run)]
    from everytoken.tracking.logger import build_logger  # only here: importing W&B takes long

    trackers = [build_logger(factory(cfg, key), part, run) for key, part in parts.items()]
    return [MetricsFile(run), *filter(None, trackers)]


def build_evaluator(cfg: DictConfig) -> L.Trainer:
    """A trainer that only evaluates, and writes nothing."""
    quiet_lightning()
    trainer = L.Trainer(
        **machine_arguments(cfg),
        logger=False,
        enable_checkpointing=False,
        callbacks=[EvaluateTogether(), EvaluationProgress()],
    )
    return keep_signals(trainer)


def quiet_lightning() -> None:
    """Silence what Lightning says to users of other set-ups, unless all is to be heard."""
    if hear_others():
        return
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # loading is a small part of a step here
        ".*sync_dist=True.*",  # what is logged has been summed over ranks already
        ".*overrides the configure_model callback.*",  # ours does nothing unless trainer=fsdp
        ".*callbacks used to create the checkpoint.*",  # they may differ from those that go on
        "Checkpoint directory .* exists and is not empty",  # of a run that goes on
        ".*LeafSpec.*",  # Lightning's own affair with torch
        ".*`srun` command is available.*",  # who doesn't use it on a cluster's machine may
    ):
        warnings.filterwarnings("ignore", message)
