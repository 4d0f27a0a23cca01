"""What settings of training may be, checked before anything heavy is imported."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from everytoken.errors import UserError, check_choice, check_number

WAYS_TO_TOKENIZE = (
    *("13a", "none", "zh", "intl", "char", "ja-mecab", "ko-mecab"),
    *("spm", "flores101", "flores200", "spBLEU-1K"),
)
"""sacrebleu's names of them."""

PATTERN = ("name", "lr_factor", "weight_decay")
"""Keys of a pattern of `by_name`."""


def check_step(settings: Mapping[str, Any]) -> None:
    """Refuse settings at the config's top, of what one step does, that make no sense.

    Raises:
        UserError: the first of them; so do all functions here.
    """
    check_number("seed", settings["seed"], int, low=0, below=2**32)
    for place, values in (("", settings), ("module.", settings["module"])):
        smoothing, z_loss = values.get("label_smoothing", 0.0), values.get("z_loss", 0.0)
        check_number(f"{place}label_smoothing", smoothing, float, low=0, below=1)
        check_number(f"{place}z_loss", z_loss, float, low=0)
    if not isinstance(settings["compile"], bool):
        raise UserError(f"compile must be true or false, got {settings['compile']!r}")


def check_origin(settings: Mapping[str, Any]) -> None:
    """The keys that say which weights a run begins with, and which of them it leaves alone."""
    origin, patterns = settings["init_from"], settings["freeze"]
    if origin is not None and (not isinstance(origin, str) or not origin):
        raise UserError(
            f"init_from must be a run directory, a checkpoint or an exported folder, got {origin!r}"
        )
    # Of a run that goes on it may be gone.
    if origin and settings["resume"] is None and not Path(origin).expanduser().exists():
        raise UserError(
            f"init_from={origin}: there is no such folder or file; give a run directory, a "
            "checkpoint in it, or a folder that scripts/export_hf.py made"
        )
    names = [patterns] if isinstance(patterns, str) else patterns or []
    if not isinstance(names, Sequence) or not all(isinstance(n, str) and n for n in names):
        raise UserError(
            "freeze must be names of weights, or patterns of them, as "
            f"freeze='[embedding,encoder.blocks.0]', got {patterns!r}"
        )


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """How long, and what happens how often; for the machine see `check_machine`."""
    for key in ("max_steps", "max_epochs"):
        check_number(f"trainer.{key}", trainer[key], int, low=1, optional=True)
    if trainer["max_steps"] is None and trainer["max_epochs"] is None:
        raise UserError("training would never end: set trainer.max_steps or trainer.max_epochs")
    check_number("trainer.log_every_n_steps", trainer["log_every_n_steps"], int, low=1)
    every = trainer["val_check_interval"]
    is_count = isinstance(every, int) and not isinstance(every, bool) and every >= 1
    if not is_count and not epochs_in(every):
        raise UserError(
            "trainer.val_check_interval must be steps, as 100, or epochs, as 1ep or 0.5ep, "
            f"got {every!r}"
        )
    check_number("trainer.skip_nonfinite_steps", trainer["skip_nonfinite_steps"], int, low=0)
    clip = trainer["gradient_clip_val"]
    check_number("trainer.gradient_clip_val", clip, float, low=0, optional=True)
    if clip == 0:
        raise UserError("trainer.gradient_clip_val=0 would stop all learning: null is no limit")


def epochs_in(interval: object) -> float | None:
    """How many epochs an interval is that is given in epochs: 0.5 of "0.5ep"; None of another."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+) ?ep(?:ochs?)?", str(interval))
    return float(found[1]) if found else None


def check_new_tokens(key: str, value: object) -> None:
    """How far evaluation generates."""
    if isinstance(value, str) and value != "auto":
        raise UserError(f"{key} must be a whole number, auto or null, got {value!r}")
    if value != "auto":
        check_number(key, value, int, low=1, optional=True)


def check_precision(precision: Mapping[str, Any]) -> None:
    """Lightning's names of it."""
    modes = ("32-true", "64-true", "bf16-mixed", "16-mixed")
    check_choice("precision.mode", precision["mode"], modes)


def check_optimizer(optimizer: Mapping[str, Any]) -> None:
    """Any optimizer's peak learning rate, and its weight decay if it has one."""
    for key in ("lr", "weight_decay"):
        if key in optimizer or key == "lr":
            check_number(f"optimizer.{key}", optimizer[key], float, low=0)


def check_muon(optimizer: Mapping[str, Any]) -> None:
    """Arguments of `Muon`."""
    check_number("optimizer.momentum", optimizer["momentum"], float, low=0, below=1)
    check_number("optimizer.ns_steps", optimizer["ns_steps"], int, low=1, below=100)
    ways = ("match_rms_adamw", "original")
    check_choice("optimizer.adjust_lr_fn", optimizer["adjust_lr_fn"], ways)


def check_patterns(groups: Mapping[str, Any]) -> None:
    """Arguments of `by_name`."""
    key, settings, patterns = "parameter_groups.patterns", PATTERN[1:], groups["patterns"]
    if not isinstance(patterns, Sequence) or isinstance(patterns, str):
        raise UserError(f"{key} must be a list of patterns with settings, got {patterns!r}")
    for rule in patterns:
        keys = {*rule} if isinstance(rule, Mapping) else set()
        if not {"name"} < keys <= {*PATTERN} or not isinstance(rule["name"], str):
            raise UserError(
                f"{key}: each must have name, a pattern, and {' or '.join(settings)}, as "
                f"{{name: embedding.*, lr_factor: 0.1}}; got {rule}"
            )
        for name in keys - {"name"}:
            check_number(f"{key}: {name} of {rule['name']}", rule[name], float, low=0)


def check_schedule(scheduler: Mapping[str, Any]) -> None:
    """The fractions of our schedules."""
    for key in ("warmup_fraction", "final_fraction"):
        if key in scheduler:
            check_number(f"scheduler.{key}", scheduler[key], float, low=0, most=1)


def check_stable(scheduler: Mapping[str, Any]) -> None:
    """Arguments of `warmup_stable_decay`."""
    check_schedule(scheduler)
    most = 1 - scheduler["warmup_fraction"]
    check_number("scheduler.decay_fraction", scheduler["decay_fraction"], float, low=0, most=1)
    if scheduler["decay_fraction"] > most + 1e-9:
        raise UserError(
            f"scheduler.decay_fraction={scheduler['decay_fraction']} and scheduler.warmup_fraction="
            f"{scheduler['warmup_fraction']} are more than all steps: lower one of them"
        )
    check_choice("scheduler.decay_shape", scheduler["decay_shape"], ("sqrt", "linear"))


def check_bleu(metric: Mapping[str, Any]) -> None:
    """Arguments of `Bleu`."""
    _check_lowercase("bleu", metric)
    check_choice("metrics.bleu.tokenize", metric["tokenize"], WAYS_TO_TOKENIZE)


def check_chrf(metric: Mapping[str, Any]) -> None:
    """Arguments of `Chrf`."""
    _check_lowercase("chrf", metric)
    check_number("metrics.chrf.word_order", metric["word_order"], int, low=0, most=10)


def _check_lowercase(name: str, metric: Mapping[str, Any]) -> None:
    if not isinstance(lowercase := metric["lowercase"], bool):
        raise UserError(f"metrics.{name}.lowercase must be true or false, got {lowercase!r}")


CHECKS = {
    "Muon": check_muon,
    "by_name": check_patterns,
    **dict.fromkeys(("warmup_cosine", "linear", "inverse_sqrt", "constant"), check_schedule),
    "warmup_stable_decay": check_stable,
    "Bleu": check_bleu,
    "Chrf": check_chrf,
}
"""By the name of the part."""
