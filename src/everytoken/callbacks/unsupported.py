"""Callbacks of Lightning that can't do here what they say, and what does it instead.

Training is one endless epoch of optimizer steps, each over a global batch whose size is a setting
of its own, with a schedule that is made for the run. What counts epochs never acts, or once, at the
end; what changes batches, schedule or weights on the way would be undone, or break a promise.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import lightning as L
from lightning.pytorch import callbacks as lightning

from everytoken.errors import UserError

UNSUPPORTED: dict[type[L.Callback], str] = {
    lightning.StochasticWeightAveraging: "counts epochs and replaces the schedule: use "
    "callbacks=average, the mean of the weights from a step on",
    lightning.ModelPruning: "counts epochs, so it would prune once, after the last step: prune the "
    "exported model",
    lightning.LearningRateFinder: "trains with rates that no run keeps: search with "
    "scripts/sweep.py OUT 'optimizer.lr=tag(log,interval(1e-4,1e-2))'",
    lightning.BatchSizeFinder: "changes the batch, which shapes learning: what has to fit in "
    "memory is data.microbatch_tokens",
    lightning.GradientAccumulationScheduler: "counts epochs, and accumulation is derived: set "
    "data.batch_tokens or data.batch_size, and data.microbatch_tokens",
    lightning.BaseFinetuning: "counts epochs: freeze weights in your model's constructor, or give "
    "them a rate of their own with parameter_groups",
    lightning.BasePredictionWriter: "writes what trainer.predict predicts, which a run doesn't: "
    "use python -m generate run=DIR input=FILE output=FILE",
    lightning.ProgressBar: "draws a bar beside the one that is there, callbacks.progress: leave it "
    "out",
    lightning.SpikeDetection: "reads a loss that a step of several backwards doesn't return: steps "
    "with a NaN are found anyway, see trainer.skip_nonfinite_steps",
    lightning.ThroughputMonitor: "counts batches of one size: throughput/real_tokens_per_second "
    "and throughput/fill are measured anyway",
}
"""With what to do instead; subclasses too."""

EACH_VALIDATION = "there is one endless epoch, and each validation is followed anyway: leave it out"

SETTINGS: dict[type[L.Callback], dict[str, str]] = {
    lightning.ModelCheckpoint: {
        "every_n_epochs": EACH_VALIDATION,
        "save_on_train_epoch_end": EACH_VALIDATION,
        "train_time_interval": "Lightning ignores it where a step is made by hand: use "
        "every_n_train_steps",
        "save_last": "callbacks.last_checkpoint keeps last.ckpt: leave it out",
    },
    lightning.EarlyStopping: {"check_on_train_epoch_end": EACH_VALIDATION},
    lightning.Timer: {
        "duration": "trainer.time_limit=HOURS saves, says so, and lets the run go on: use that",
        "interval": EACH_VALIDATION,
    },
}
"""Settings of others that can't act, or clash with what is there."""

OWN_FILES = ("best", "last")
"""Names of checkpoints that are kept already."""


def check_supported(callbacks: Mapping[str, L.Callback], parts: Mapping[str, Any]) -> None:
    """Refuse callbacks, and settings of callbacks, that can't act or would break a promise.

    Args:
        callbacks: by the name that they have in the config.
        parts: their configs, by the same names.

    Raises:
        UserError: with what to do instead.
    """
    for name, callback in callbacks.items():
        for kind, why in UNSUPPORTED.items():
            if isinstance(callback, kind):
                raise UserError(f"callbacks.{name}: {type(callback).__name__} {why}")
        for kind, settings in SETTINGS.items():
            for key, why in settings.items():
                if isinstance(callback, kind) and parts[name].get(key) not in (None, False):
                    raise UserError(f"callbacks.{name}.{key}={parts[name][key]}: {why}")
        if isinstance(callback, lightning.ModelCheckpoint):
            _check_files(name, parts[name])
        if isinstance(callback, lightning.WeightAveraging):
            raise UserError(
                f"callbacks.{name}: {type(callback).__name__} validates and keeps its first "
                "average, which is random: use callbacks=ema, or derive it from "
                "everytoken.callbacks.AveragedWeights"
            )
        if isinstance(callback, lightning.DeviceStatsMonitor) and not find_spec("psutil"):
            raise UserError(f"callbacks.{name}: DeviceStatsMonitor needs pip install psutil")


def _check_files(name: str, part: Mapping[str, Any]) -> None:
    if part.get("filename") in OWN_FILES:
        raise UserError(
            f"callbacks.{name}.filename={part['filename']} is kept already: give another name"
        )
    if part.get("every_n_train_steps") and str(part.get("monitor")).startswith("val/"):
        raise UserError(
            f"callbacks.{name}.every_n_train_steps would save weights that {part['monitor']} isn't "
            "of: leave it out, and each validation may save"
        )
