"""Checks of the values of a composed config, before anything heavy is imported or written."""

import math

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from everytoken.config.keys import check_name, key_paths
from everytoken.errors import UserError
from everytoken.hf.config import check_place, decoder_sizes
from everytoken.model.sizes import BlockSizes

SHAPES = {
    "everytoken.data.Seq2Seq": "encoder_decoder",
    "everytoken.data.CausalLM": "decoder",
    "everytoken.data.MaskedLM": "encoder",
}
"""The only shape of model that each objective makes sense with."""

LONG = ("windows", "truncate", "drop", "refuse")
"""What can become of texts that are too long; pairs have no windows."""

MOST_WHOLE = 2**63
"""Whole numbers are below this, as those of torch and numpy are."""

MOST_PROCESSES = 1024
"""On one machine: more is a slip of the finger, and would bring the machine down."""

GROUPS = (
    *("task", "model", "data", "tokenizer", "optimizer", "scheduler"),
    *("module", "parameter_groups", "trainer", "precision", "logger", "callbacks", "metrics"),
)


def check_training(cfg: DictConfig) -> None:
    """Refuse values out of range and settings that contradict each other.

    Raises:
        UserError: what is wrong, with the value, and what to do.
    """
    if missing := [group for group in GROUPS if not isinstance(cfg.get(group), DictConfig)]:
        raise UserError(f"{missing[0]} must be chosen, and be a group of settings: see --help")
    _check_missing(cfg)
    objective = cfg.task.objective
    for key in ("data.batch_tokens", "data.batch_size"):
        _check_number(cfg, key, int, low=1, optional=True)
    for key in ("trainer.max_steps", "trainer.max_epochs", "data.limit_examples"):
        _check_number(cfg, key, int, low=1, optional=True)
    _check_number(cfg, "task.max_new_tokens", int, low=1, optional=True)
    shape = SHAPES.get(objective._target_, cfg.task.shape)
    if cfg.task.shape != shape:
        raise UserError(
            f"task.shape={cfg.task.shape} can't learn {objective._target_} (it would see its "
            f"targets, or miss its source): use task.shape={shape}"
        )
    if cfg.task.shape == "encoder" and cfg.task.max_new_tokens is not None:
        raise UserError(
            f"task={cfg.task.name} predicts no next token, so it can't generate: "
            "set task.max_new_tokens=null"
        )
    for key in ("data.microbatch_tokens", "data.pad_to_multiple_of"):
        _check_number(cfg, key, int, low=1)
    for key in ("trainer.val_check_interval", "trainer.log_every_n_steps"):
        _check_number(cfg, key, int, low=1)
    _check_number(cfg, "data.num_workers", int, low=0, most=MOST_PROCESSES)
    _check_number(cfg, "trainer.skip_nonfinite_steps", int, low=0)
    _check_number(cfg, "seed", int, low=0, below=2**32)
    _check_long_examples(cfg)
    if "corrupted_fraction" in objective and not 0 < objective.corrupted_fraction <= 1:
        raise UserError(
            "task.objective.corrupted_fraction must be above 0 and at most 1, "
            f"got {objective.corrupted_fraction!r}"
        )
    if "vocabulary_size" in cfg.tokenizer:
        # 256 bytes and 5 special tokens; ids are 32 bits wide
        _check_number(cfg, "tokenizer.vocabulary_size", int, low=261, below=2**31)
    _check_number(cfg, "label_smoothing", float, low=0, below=1)
    _check_number(cfg, "z_loss", float, low=0)
    if not isinstance(cfg.compile, bool):
        raise UserError(f"compile must be true or false, got {cfg.compile!r}")
    _check_number(cfg, "optimizer.lr", float, low=0)
    _check_number(cfg, "trainer.gradient_clip_val", float, low=0, optional=True)
    if cfg.trainer.gradient_clip_val == 0:
        raise UserError("trainer.gradient_clip_val=0 would stop all learning: null is no limit")
    for key in ("warmup_fraction", "final_fraction"):
        if key in cfg.scheduler:
            _check_number(cfg, f"scheduler.{key}", float, low=0, most=1)
    _check_choice(cfg, "data.padding_side", ("left", "right"))
    _check_choice(cfg, "precision.mode", ("32-true", "bf16-mixed", "16-mixed"))
    if cfg.precision.mode == "16-mixed" and cfg.optimizer.get("fused"):
        raise UserError(
            "optimizer.fused=true doesn't go with precision=fp16, which clips gradients before the "
            "optimizer undoes the loss scaling: leave it out"
        )
    if "mode" in cfg.logger:
        _check_choice(cfg, "logger.mode", ("auto", "online", "offline"))
        _check_choice(cfg, "logger.log_checkpoints", ("none", "best", "all"))
        _check_number(cfg, "logger.keep_checkpoints", int, low=1)
        _check_number(cfg, "logger.predictions", int, low=0)
    _check_decoding(cfg)
    _check_machine(cfg)
    _check_batch_size(cfg)
    if cfg.trainer.max_steps is None and cfg.trainer.max_epochs is None:
        raise UserError("training would never end: set trainer.max_steps or trainer.max_epochs")
    check_name(cfg.name)
    averaging = any("WeightAveraging" in str(c and c._target_) for c in cfg.callbacks.values())
    if averaging and cfg.trainer.strategy == "fsdp":
        raise UserError(
            "weights that are sharded can't be averaged: use callbacks=default or trainer=ddp"
        )
    _check_task_fits_data(cfg)
    check_place(cfg.model)
    if cfg.model.get("pretrained") and cfg.tokenizer._target_.startswith(
        "everytoken.tokenizer.tokenizer."
    ):
        raise UserError(
            "pretrained weights know only the tokens of their own tokenizer: add "
            "tokenizer=pretrained tokenizer.path=FOLDER, or model.pretrained=false"
        )
    if cfg.model._target_ == "everytoken.hf.llama_from_hf":
        decoder_sizes(cfg.model.config)
    if cfg.model._target_ == "everytoken.model.Transformer":
        for key in ("layers", "width", "heads", "key_value_heads", "ffn_width"):
            _check_number(cfg, f"model.{key}", int, low=1)
        for key in ("dropout", "token_dropout"):
            _check_number(cfg, f"model.{key}", float, low=0, below=1)
        _check_number(cfg, "model.rope_base", float, low=1)
        _check_number(cfg, "model.norm_eps", float, low=0)
        _check_number(cfg, "model.window", int, low=1, optional=True)
        _check_choice(cfg, "model.attention", ("auto", "varlen", "bucketed", "padded"))
        try:
            BlockSizes(**{key: cfg.model[key] for key in BlockSizes.__dataclass_fields__})
        except ValueError as error:
            raise UserError(str(error)) from error


def _check_missing(cfg: DictConfig) -> None:
    if missing := [key for key in key_paths(cfg) if _is_missing(cfg, key)]:
        group = missing[0].partition(".")[0]
        choice = HydraConfig.get().runtime.choices.get(group) if HydraConfig.initialized() else None
        who, where = (f"{group}={choice}", f"{group}/{choice}.yaml") if choice else (group, "")
        give = " ".join(f"{key}=VALUE" for key in missing)
        raise UserError(f"{who} needs {' and '.join(missing)}: give {give}, see conf/{where}")


def _is_missing(cfg: DictConfig, key: str) -> bool:
    part, _, name = key.rpartition(".")
    return OmegaConf.is_missing(OmegaConf.select(cfg, part) if part else cfg, name)


def _check_decoding(cfg: DictConfig) -> None:
    decoding = cfg.get("decoding") or {}
    if "beams" in decoding:
        _check_number(cfg, "decoding.beams", int, low=1)
        _check_number(cfg, "decoding.length_penalty", float, low=0)
    if "temperature" in decoding:
        _check_number(cfg, "decoding.temperature", float, low=1e-4)
        _check_number(cfg, "decoding.top_p", float, low=1e-4, most=1, optional=True)
        _check_number(cfg, "decoding.top_k", int, low=1, optional=True)
        _check_number(cfg, "decoding.seed", int, low=0)


def _check_long_examples(cfg: DictConfig) -> None:
    objective = cfg.task.objective
    for key in ("window_tokens", "stride_tokens", "max_tokens"):
        if key in objective:
            _check_number(cfg, f"task.objective.{key}", int, low=1)
    if "long" in objective:
        _check_choice(cfg, "task.objective.long", LONG[1:] if "max_tokens" in objective else LONG)
    if "stride_tokens" in objective and objective.stride_tokens != objective.window_tokens:
        values = f"task.objective.stride_tokens={objective.stride_tokens}"
        if objective.stride_tokens > objective.window_tokens:
            raise UserError(
                f"{values} would leave tokens out between windows: give at most "
                f"task.objective.window_tokens={objective.window_tokens}"
            )
        if objective.long != "windows":
            raise UserError(
                f"{values} needs windows, but task.objective.long={objective.long}: leave it out"
            )


def _check_machine(cfg: DictConfig) -> None:
    _check_number(cfg, "trainer.num_nodes", int, low=1)
    if cfg.trainer.devices != "auto":
        _check_number(cfg, "trainer.devices", int, low=1, most=MOST_PROCESSES)
    _check_number(cfg, "trainer.time_limit", float, low=0.001, optional=True)
    _check_number(cfg, "trainer.hang_timeout", float, low=1)
    _check_choice(cfg, "trainer.accelerator", ("auto", "cpu", "cuda"))
    _check_choice(cfg, "trainer.strategy", ("auto", "ddp", "fsdp"))
    several = cfg.trainer.devices not in (1, "auto") or cfg.trainer.num_nodes > 1
    if several and cfg.trainer.strategy == "auto":
        raise UserError(
            f"trainer.devices={cfg.trainer.devices} needs a strategy: "
            "use trainer=ddp, trainer=ddp_cpu or trainer.strategy=ddp"
        )


def _check_batch_size(cfg: DictConfig) -> None:
    tokens, examples = cfg.data.batch_tokens, cfg.data.batch_size
    if (tokens is None) == (examples is None):
        state = "neither is" if tokens is None else "both are"
        raise UserError(
            f"set exactly one of data.batch_tokens and data.batch_size ({state} set): "
            "give one a number and the other null"
        )


def _check_task_fits_data(cfg: DictConfig) -> None:
    try:
        source = get_object(cfg.data.corpus._target_)
    except Exception as error:  # whatever importing the user's own module raises
        raise UserError(f"data.corpus._target_: {' '.join(str(error).split())}") from error
    offered = getattr(source, "fields", cfg.task.fields)
    if missing := [field for field in cfg.task.fields if field not in offered]:
        raise UserError(
            f"task={cfg.task.name} needs {' and '.join(missing)}, but data={cfg.data.kind} has "
            f"{' and '.join(offered)}: choose another task or another data"
        )


def _check_number(
    cfg: DictConfig,
    key: str,
    kind: type,
    *,
    low: float,
    below: float = math.inf,
    most: float = math.inf,
    optional: bool = False,
) -> None:
    value = OmegaConf.select(cfg, key)
    if value is None and optional:
        return
    types = int if kind is int else int | float
    if kind is int and isinstance(value, types) and value >= MOST_WHOLE:
        most = min(most, MOST_WHOLE - 1)
    within = isinstance(value, types) and low <= value < below and value <= most
    if within and not isinstance(value, bool):
        return
    limits = (("below", below), ("at most", most))
    upper = "".join(f" and {word} {limit:,}" for word, limit in limits if limit < math.inf)
    null = " or null" if optional else ""
    noun = "a whole number" if kind is int else "a number"
    raise UserError(f"{key} must be {noun} of at least {low:g}{upper}{null}, got {value!r}")


def _check_choice(cfg: DictConfig, key: str, choices: tuple[str, ...]) -> None:
    value = OmegaConf.select(cfg, key)
    if value not in choices:
        raise UserError(f"{key} must be one of {', '.join(choices)}, got {value!r}")


def check_evaluation(cfg: DictConfig) -> None:
    """The same for `python -m eval`."""
    _check_run(cfg)
    _check_choice(cfg, "split", ("val", "test"))
    _check_decoding(cfg)
    _check_machine(cfg)


def check_generation(cfg: DictConfig) -> None:
    """The same for `python -m generate`."""
    _check_run(cfg)
    _check_number(cfg, "max_new_tokens", int, low=1)
    _check_number(cfg, "batch_size", int, low=1)
    if not isinstance(cfg.stream, bool | None):
        raise UserError(f"stream must be true, false or null, got {cfg.stream!r}")
    _check_decoding(cfg)


def _check_run(cfg: DictConfig) -> None:
    if OmegaConf.is_missing(cfg, "run"):
        raise UserError("which run? give run=DIR, a folder that python -m train made")
    _check_choice(cfg, "checkpoint", ("best", "last"))
