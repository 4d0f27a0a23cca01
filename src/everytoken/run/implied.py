"""What overrides mean beyond their own keys."""

import inspect
from collections.abc import Iterable

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from everytoken.config.check import Command
from everytoken.config.composing import composed


def implied(command: Command, parsed: Iterable[Override], before: Iterable[str] = ()) -> list[str]:
    """Overrides that follow from those of a command.

    Args:
        command: as it was typed.
        parsed: its overrides.
        before: those of the run that it continues.
    """
    typed = {override.key_or_group: override for override in parsed}
    return [*_without_default_end(typed), *_without_others_arguments(command, typed, before)]


def _without_default_end(typed: dict[str, Override]) -> list[str]:
    """Epochs that are typed end a run, and not a default number of steps before."""
    epochs = typed.get("trainer.max_epochs")
    is_given = epochs is not None and (epochs.is_sweep_override() or epochs.value() is not None)
    return ["trainer.max_steps=null"] if is_given and "trainer.max_steps" not in typed else []


def _without_others_arguments(
    command: Command, typed: dict[str, Override], before: Iterable[str]
) -> list[str]:
    """Other code in the place of a choice's own isn't given the arguments that only that takes."""
    targets = {
        key.removesuffix("._target_"): value
        for key, override in typed.items()
        if key.endswith("._target_")
        and not override.is_sweep_override()
        and isinstance(value := override.value(), str)
    }
    if not targets:
        return []
    others = [
        override.input_line or ""
        for key, override in typed.items()
        if not key.endswith("._target_") and not override.is_sweep_override()
    ]
    try:
        cfg = composed(command.folder, command.config_name, [*before, *others])
    except (HydraException, OmegaConfBaseException):
        return []  # Hydra will say so
    found: list[str] = []
    for place, target in targets.items():
        part = OmegaConf.select(cfg, place, throw_on_missing=False)
        taken = _parameters(target)
        if isinstance(part, DictConfig) and part.get("_target_") is not None and taken is not None:
            own = [str(key) for key in part if not str(key).startswith("_")]
            # Hydra looks at what it deletes: first what refers to others.
            own.sort(key=lambda key, part=part: not OmegaConf.is_interpolation(part, key))
            for name in own:
                key = f"{place}.{name}"
                if name not in taken and key not in typed:
                    is_null = OmegaConf.select(cfg, key, throw_on_missing=False) is None
                    found += [f"{key}=0"] * is_null + [f"~{key}"]  # Hydra deletes no null
    return found


def _parameters(target: str) -> set[str] | None:
    """Names of what code takes; None if it takes anything, or if it can't be imported."""
    try:
        parameters = inspect.signature(get_object(target)).parameters
    except Exception:  # whatever importing it raises: the check of the keys says it
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return {*parameters}
