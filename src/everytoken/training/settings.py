"""What settings of training may be, checked before anything heavy is imported."""

import re
from collections.abc import Mapping
from typing import Any

from everytoken.errors import UserError, check_choice, check_number

WAYS_TO_TOKENIZE = (
    *("13a", "none", "zh", "intl", "char", "ja-mecab", "ko-mecab"),
    *("spm", "flores101", "flores200", "spBLEU-1K"),
)
"""sacrebleu's names of them."""


def check_step(settings: Mapping[str, Any]) -> None:
    """Refuse settings at the config's top, of what one step does, that make no sense.

    Raises:
        UserError: the first of them; so do all functions here.
    """
    check_number("seed", settings["seed"], int, low=0, below=2**32)
    check_number("label_smoothing", settings["label_smoothing"], float, low=0, below=1)
    check_number("z_loss", settings["z_loss"], float, low=0)
    if not isinstance(settings["compile"], bool):
        raise UserError(f"compile must be true or false, got {settings['compile']!r}")


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
    check_choice("precision.mode", precision["mode"], ("32-true", "bf16-mixed", "16-mixed"))


def check_optimizer(optimizer: Mapping[str, Any]) -> None:
    """Any optimizer's peak learning rate, and its weight decay if it has one."""
    for key in ("lr", "weight_decay"):
        if key in optimizer or key == "lr":
            check_number(f"optimizer.{key}", optimizer[key], float, low=0)


def check_schedule(scheduler: Mapping[str, Any]) -> None:
    """The fractions of `warmup_cosine` and `constant`."""
    for key in ("warmup_fraction", "final_fraction"):
        if key in scheduler:
            check_number(f"scheduler.{key}", scheduler[key], float, low=0, most=1)


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
    "warmup_cosine": check_schedule,
    "constant": check_schedule,
    "Bleu": check_bleu,
    "Chrf": check_chrf,
}
"""By the name of the part."""
