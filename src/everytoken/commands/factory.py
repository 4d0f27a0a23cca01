"""What a config names with `_target_` → the object; whatever that refuses, in one line."""

import re
from collections.abc import Callable
from functools import reduce, wraps
from operator import getitem
from typing import Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from everytoken.config.arguments import check_arguments
from everytoken.config.code import missing
from everytoken.errors import RunError, UserError
from everytoken.runtime.signals import Stopped
from everytoken.runtime.unexpected import in_short


def factory(cfg: DictConfig, key: str) -> Callable[..., Any]:
    """What a part of the config names with `_target_`, its settings filled in, not called yet.

    Args:
        cfg: the whole config.
        key: the part's, as it is typed: "task.objective".

    Raises:
        UserError: there is no such thing; or, when it is called, that it refuses its arguments.
    """
    part = reduce(getitem, key.split("."), cfg)
    if part.get("_target_") is None:
        raise UserError(f"{key} names no code: give it a _target_, as its choices in conf/ have")
    if why := missing(str(part._target_)):
        raise UserError(f"{key}._target_={part._target_} can't be imported: {why}")
    try:
        make = hydra.utils.instantiate(part, _partial_=True, _convert_="all")
    except InstantiationException as error:
        # The cause says why; the error itself, how Hydra would print it.
        raise UserError(f"{key}: {in_short(error.__cause__ or error)}") from error
    check_arguments(key, make.func, make.keywords)

    @wraps(make)  # so that its signature can be asked for
    def call(*arguments: Any, **settings: Any) -> Any:
        if given := [name for name in settings if name in make.keywords]:
            raise UserError(f"{key}.{given[0]} is the run's to say: leave it out")
        try:
            return make(*arguments, **settings)
        except (UserError, RunError, Stopped):
            raise
        except Exception as error:  # whatever the user's own code raises
            raise UserError(f"{key}: {in_short(error)}{_to_give(key, error)}") from error

    return call


def _to_give(key: str, error: Exception) -> str:
    """What to type for arguments that Python misses."""
    _, is_missing, names = str(error).partition(" missing ")
    if not isinstance(error, TypeError) or not is_missing:
        return ""
    return ": give " + " ".join(f"+{key}.{name}=VALUE" for name in re.findall(r"'(\w+)'", names))


def instantiate(cfg: DictConfig, key: str, **arguments: Any) -> Any:
    """Build what a part of the config names with `_target_`; raises as `factory` does."""
    return factory(cfg, key)(**arguments)
