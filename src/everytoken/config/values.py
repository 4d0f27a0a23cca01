"""Checks of the values of a composed config, before anything heavy is imported or written.

What a part's values may be, the room of the part says, in its `settings.py`. Here are the way to
them, and what several parts must agree on.
"""

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from everytoken.config.keys import OPEN, check_name, conf_dir, typed
from everytoken.config.literal import plain
from everytoken.config.tensor_parallel import check_tensor_parallel_model
from everytoken.config.unused import check_used
from everytoken.data.fields import FIELDS
from everytoken.data.settings import check_data
from everytoken.errors import UserError, check_choice, check_number, one_line
from everytoken.runtime.settings import check_machine
from everytoken.training.settings import (
    check_new_tokens,
    check_optimizer,
    check_origin,
    check_precision,
    check_step,
    check_trainer,
)

PACKAGE = Path(__file__).resolve().parents[1]

SHAPES = {
    "everytoken.data.Seq2Seq": "encoder_decoder",
    "everytoken.data.CausalLM": "decoder",
    "everytoken.data.Chat": "decoder",
    "everytoken.data.MaskedLM": "encoder",
    "everytoken.data.PrefixLM": "decoder",
    "everytoken.data.SpanCorruption": "encoder_decoder",
    "everytoken.data.TokenClassification": "encoder",
    "everytoken.data.SequenceClassification": "encoder",
    "everytoken.data.MultiLabelClassification": "encoder",
}
"""The only shape of model that each objective makes sense with."""

NO_TRACKERS = ("csv", "none")
"""Choices of logger that add nothing to metrics.csv."""

GROUPS = (
    *("task", "model", "data", "tokenizer", "optimizer", "scheduler"),
    *("module", "parameter_groups", "trainer", "precision", "logger", "callbacks", "metrics"),
)


PARTS = (
    *("model", "tokenizer", "optimizer", "scheduler", "module", "parameter_groups", "decoding"),
    *("task.objective", "data.corpus"),
)
"""Of which there is always one."""


def check_training(cfg: DictConfig) -> None:
    """Refuse values out of range and settings that contradict each other.

    Raises:
        UserError: what is wrong, with the value, and what to do.
    """
    if missing := [group for group in GROUPS if not isinstance(cfg.get(group), DictConfig)]:
        names = sorted(file.stem for file in (conf_dir() / missing[0]).glob("*.yaml"))
        raise UserError(
            f"{missing[0]} must be chosen, and be a group of settings: give {missing[0]}=CHOICE, "
            f"one of {', '.join(names)}"
        )
    _check_structure(cfg)
    check_name(cfg.name)
    check_step(cfg)
    check_origin(cfg)
    check_data(cfg.data)
    check_optimizer(cfg.optimizer)
    check_precision(cfg.precision)
    check_trainer(cfg.trainer)
    check_machine(cfg.trainer)
    check_new_tokens("task.max_new_tokens", cfg.task.max_new_tokens)
    _check_parts(cfg)
    _check_loggers(cfg)
    _check_task(cfg)
    _check_corpus(cfg)
    _check_combinations(cfg)
    check_used(cfg)


def check_evaluation(cfg: DictConfig) -> None:
    """The same for `python -m eval`."""
    _check_run(cfg)
    check_choice("split", cfg.split, ("val", "test"))
    check_machine(cfg.trainer)
    check_new_tokens("max_new_tokens", cfg.max_new_tokens)
    for key in ("precision", "decoding"):  # null is that of the run
        if not isinstance(cfg.get(key), DictConfig | None):
            raise UserError(f"{key} must be one of its choices or null, got {cfg[key]!r}")
    if cfg.get("precision"):
        check_precision(cfg.precision)
    _check_parts(cfg)


def check_generation(cfg: DictConfig) -> None:
    """The same for `python -m generate`."""
    _check_run(cfg)
    check_number("max_new_tokens", cfg.max_new_tokens, int, low=1)
    check_number("batch_size", cfg.batch_size, int, low=1, most=1_000_000)
    if not isinstance(cfg.stream, bool | None):
        raise UserError(f"stream must be true, false or null, got {cfg.stream!r}")
    if not isinstance(cfg.chat, bool):
        raise UserError(f"chat must be true or false, got {cfg.chat!r}")
    _check_parts(cfg)


def _check_run(cfg: DictConfig) -> None:
    if OmegaConf.is_missing(cfg, "run"):
        raise UserError("which run? give run=DIR, a folder that python -m train made")
    if not isinstance(cfg.checkpoint, str) or not cfg.checkpoint:
        raise UserError(
            "checkpoint must be best, last, a file of checkpoints/ or a path, got "
            f"{cfg.checkpoint!r}"
        )


def _check_structure(cfg: DictConfig) -> None:
    """Where a part is built there is one, and not a number or a text."""
    for key in PARTS:
        group, _, name = key.partition(".")
        part = cfg.get(group)
        _check_part(key, part.get(name) if name and isinstance(part, DictConfig) else part)
    own = cfg.task.get("metrics")
    if not isinstance(own, DictConfig | None):
        raise UserError(f"task.metrics must be metrics by name, see conf/task/, got {own!r:.80}")
    for place, parts in (*((group, cfg[group]) for group in OPEN), ("task.metrics", own or {})):
        for key, part in parts.items():
            if part is not None:
                _check_part(f"{place}.{key}", part)
    fields = cfg.task.fields
    if not isinstance(fields, ListConfig | list) or not fields or not {*fields} <= {*FIELDS}:
        raise UserError(
            f"task.fields must be names of {', '.join(FIELDS)}, as [source,target], got {fields!r}"
        )
    check_choice("task.shape", cfg.task.shape, tuple(SHAPES.values()))


def _check_part(key: str, part: object) -> None:
    target = part.get("_target_") if isinstance(part, DictConfig) else None
    if not isinstance(target, str) or not all(name.isidentifier() for name in target.split(".")):
        group = key.partition(".")[0]
        null = f"; {key}=null leaves it out" if group in OPEN else ""
        raise UserError(
            f"{key} must be a part, a group of settings with a _target_ that names its code, got "
            f"{str(plain(part))[:80]}: see conf/{group}/{null}"
        )


def _check_parts(cfg: DictConfig) -> None:
    """Each part of ours by the check that stands beside it; others check themselves when built."""
    for part in _parts(cfg):
        if check := _check_of(str(part._target_)):
            check(part)


def _parts(node: DictConfig) -> Iterator[DictConfig]:
    """What has a `_target_`; what is in such a part belongs to it."""
    if node.get("_target_") is not None:
        yield node
        return
    for key in node:
        inside = None if OmegaConf.is_interpolation(node, key) else node[key]  # pyright: ignore
        if isinstance(inside, DictConfig):
            yield from _parts(inside)


def _check_of(target: str) -> Callable[[DictConfig], None] | None:
    """What `everytoken.ROOM.settings` has for a part in that room, if it has something."""
    package, _, place = target.partition(".")
    room, name = place.partition(".")[0], place.rpartition(".")[2]
    if package != PACKAGE.name or not (PACKAGE / room / "settings.py").is_file():
        return None
    return import_module(f"{package}.{room}.settings").CHECKS.get(name)


def _check_loggers(cfg: DictConfig) -> None:
    """Of several loggers each has a place of its own, or the last one's keys would replace all."""
    overrides = typed("task") if HydraConfig.initialized() else []
    lists = [line[8:-1] for line in overrides if re.fullmatch(r"logger=\[.*,.*\]", line)]
    for name in (name.strip() for line in lists for name in line.split(",")):
        if name not in (*NO_TRACKERS, *cfg.logger):
            raise UserError(
                f"logger={name} can't be one of several: begin conf/logger/{name}.yaml with the "
                f"line # @package logger.{name}"
            )


def _check_task(cfg: DictConfig) -> None:
    """The task's objective, its model and generation."""
    task, objective = cfg.task, cfg.task.objective._target_
    shape = _shape_for(objective) or task.shape
    if task.shape != shape:
        raise UserError(
            f"task.shape={task.shape} can't learn {objective} (it would see its "
            f"targets, or miss its source): use task.shape={shape}"
        )
    own = cfg.model.get("shape", shape)
    if own in SHAPES.values() and own != shape:
        raise UserError(
            f"model.shape={own} can't learn what task.shape={shape} says (it would see its "
            "targets, or miss its source): leave it out, for it follows the task"
        )
    if cfg.z_loss and getattr(_kind(objective), "has_several", False):
        raise UserError(
            f"task={task.name} has no softmax, for a text may be of several classes: set z_loss=0"
        )
    if task.shape == "encoder" and task.max_new_tokens is not None:
        raise UserError(
            f"task={task.name} predicts no next token, so it can't generate: "
            "set task.max_new_tokens=null"
        )


def _shape_for(objective: str) -> str | None:
    """The shape that an objective, or what it is derived from, needs; None of one that is new."""
    if objective in SHAPES:
        return SHAPES[objective]
    kinds = getattr(_kind(objective), "__mro__", ())
    names = (f"{PACKAGE.name}.data.{kind.__name__}" for kind in kinds if _is_ours(kind))
    return next((SHAPES[name] for name in names if name in SHAPES), None)


def _kind(objective: str) -> object:
    try:
        return get_object(objective)
    except Exception:  # whatever importing it raises is told when it is built
        return None


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith(f"{PACKAGE.name}.data.")


def _check_corpus(cfg: DictConfig) -> None:
    """The texts that the task needs of an example, and those that the corpus has."""
    try:
        source = get_object(cfg.data.corpus._target_)
    except Exception as error:  # whatever importing the user's own module raises
        raise UserError(f"data.corpus._target_: {one_line(error)}") from error
    offered = getattr(source, "fields", cfg.task.fields)
    if missing := [field for field in cfg.task.fields if field not in offered]:
        raise UserError(
            f"task={cfg.task.name} needs {' and '.join(missing)}, but data={cfg.data.kind} has "
            f"{' and '.join(offered)}: choose another task or another data"
        )


def _check_combinations(cfg: DictConfig) -> None:
    """Choices of two groups that don't go together."""
    if cfg.precision.mode == "16-mixed" and cfg.optimizer.get("fused"):
        raise UserError(
            "optimizer.fused=true doesn't go with precision=fp16, which clips gradients before the "
            "optimizer undoes the loss scaling: leave it out"
        )
    check_tensor_parallel_model(cfg)
    if cfg.get("adapter"):
        _check_adapter(cfg)
    learned = f"{PACKAGE.name}.tokenizer.train_"
    is_prepared = cfg.data.corpus._target_ == f"{PACKAGE.name}.corpora.Prepared"
    words = typed("task") if is_prepared and HydraConfig.initialized() else []
    if word := next((word for word in words if re.match(r"\+?tokenizer[.=]", word)), None):
        raise UserError(
            f"data=prepared comes with the tokenizer that it was prepared with: leave out {word}"
        )
    if (
        not is_prepared
        and cfg.model.get("pretrained")
        and not cfg.init_from
        and cfg.tokenizer._target_.startswith(learned)
    ):
        raise UserError(
            "pretrained weights know only the tokens of their own tokenizer: add "
            "tokenizer=pretrained tokenizer.path=FOLDER, or model.pretrained=false"
        )


def _check_adapter(cfg: DictConfig) -> None:
    """What an adapter is on, and what it leaves alone as it is."""
    if not cfg.init_from and not cfg.model.get("pretrained"):
        raise UserError(
            "adapter=lora needs init_from: give init_from=VALUE, a run, or choose model=hf with "
            "model.name_or_path=FOLDER and model.pretrained=true"
        )
    if cfg.freeze:
        raise UserError("adapter=lora trains nothing but the adapter: leave out freeze")
