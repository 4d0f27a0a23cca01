"""Another corpus in the place of a run's own: `data.KEY=VALUE` and `data=CHOICE` of eval."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf

from everytoken.config.check import Command
from everytoken.config.cli import explain
from everytoken.config.composing import composed
from everytoken.config.literal import leaves, plain
from everytoken.config.secrets import resolved
from everytoken.config.trust import check_targets, own_names
from everytoken.data.settings import check_data
from everytoken.errors import UserError
from everytoken.run.directory import Run
from everytoken.run.overrides import applicable, earlier, unhiding
from everytoken.run.reading import SPLITS, check_measured, read_anew

LONGEST = 60
"""Characters of a file's name that say which data it is about."""


def without_data(command: Command) -> list[str]:
    """The overrides of a command that aren't about data."""
    return [line for line in command.overrides if not _is_data(line)]


def data_overrides(command: Command) -> list[str]:
    """Those that are."""
    return [line for line in command.overrides if _is_data(line)]


def other_data(run: Run, command: Command, split: str) -> dict[str, Any] | None:
    """A run's data under the overrides of a command; None if there are none of data.

    Args:
        run: whose task and tokenizer stay.
        command: as it was typed.
        split: that is going to be measured.

    Raises:
        UserError: what can't be composed, or makes no sense.
    """
    typed = data_overrides(command)
    if not typed:
        return None
    command = replace(command, overrides=typed)
    GlobalHydra.instance().clear()  # it has composed the command's own config
    try:
        before = unhiding(earlier(run, command), command)
        # What conf/ derives from a key follows the key that is typed, whatever the run had there.
        unpinned = composed(command.folder, "train", [o for o in before if not _is_pin(o)])
        before = [o for o in before if not (_is_pin(o) and _is_derived(unpinned, o))]
        cfg = composed(command.folder, "train", applicable([*before, *typed], command))
        own, other = plain(run.config.data), resolved(cfg, strict=False)["data"]
        later = SPLITS[SPLITS.index(split) :]  # whose examples are left out of this one
        if anew := read_anew(own, plain(other), typed, command, later):
            lines = applicable([*before, *typed], command)
            cfg = composed(command.folder, "train", [*lines, *anew])
    except HydraException as error:
        raise UserError(explain(error, "train")) from error
    if missing := [
        key for key, value in leaves(OmegaConf.to_container(cfg.data)) if value == "???"
    ]:
        give = " ".join(f"data.{key}=VALUE" for key in missing)
        raise UserError(f"other data need more: give {give}")
    check_targets(cfg.data, "this data", {*command.trusted, *own_names(run.config_file)})
    data = resolved(cfg, strict=False)["data"]
    check_data(data)
    check_measured(own, plain(data), typed, split)
    return data


def label(overrides: Sequence[str]) -> str:
    """What results on such data are called: by its files, and what tells equal names apart."""
    if not overrides:
        return ""
    values = (line.partition("=")[2].strip("'\"") for line in overrides)
    names = "+".join(re.sub(r"[^\w.-]+", "_", Path(value).name) for value in values)
    digest = hashlib.sha256("\n".join(sorted(overrides)).encode()).hexdigest()[:6]
    return f"{names[:LONGEST]}-{digest}"


def _is_data(line: str) -> bool:
    return re.match(r"[+~]*data[.=]", line) is not None


def _is_pin(line: str) -> bool:
    return line.startswith("++data.corpus.")


def _is_derived(cfg: Any, pin: str) -> bool:
    parent, _, key = pin.removeprefix("++").partition("=")[0].rpartition(".")
    part = OmegaConf.select(cfg, parent)
    return part is not None and OmegaConf.is_interpolation(part, key)
