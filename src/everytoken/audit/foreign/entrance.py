"""`audit`: what it is given finds its door; all checks are made there."""

import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from everytoken.audit.check import Check, Finding
from everytoken.audit.foreign import checks_batch, checks_model, checks_step, checks_targets
from everytoken.audit.foreign.borrowed import borrowed
from everytoken.audit.foreign.door import Door
from everytoken.audit.foreign.ranks import on_processes
from everytoken.audit.foreign.terms import NotApplicableError, Settings, not_applicable, seeded
from everytoken.audit.results import Report, run_checks
from everytoken.errors import UserError
from everytoken.runtime.console import Watch


def audit(
    what: Any,
    datamodule: L.LightningDataModule | None = None,
    *,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    batches: Iterable[Any] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    model: nn.Module | None = None,
    accumulate: Callable[[list[Any]], Any] | None = None,
    evaluate: Callable[[list[Any]], Any] | None = None,
    **settings: Any,
) -> Report:
    """Audit training code: does every token count once?

    Args:
        what: a LightningModule; a Trainer of transformers, or one derived from it; a function
            from a batch to its loss, or to (loss, model); or what `prepare` made of one of these.
        datamodule, train_dataloaders, val_dataloaders: of a LightningModule.
        batches: examples for a function; or ready batches, without `collate`.
        collate, model, accumulate, evaluate: see `LoopDoor`.
        settings: see `Settings`.

    Returns:
        What the checks found. All that was given is left as it was.

    Raises:
        UserError: it can't be audited as it is; with what to give.
    """
    given = {
        "datamodule": datamodule,
        "train_dataloaders": train_dataloaders,
        "val_dataloaders": val_dataloaders,
        "batches": batches,
        "collate": collate,
        "model": model,
        "accumulate": accumulate,
        "evaluate": evaluate,
    }
    given = {name: value for name, value in given.items() if value is not None}
    door = what if isinstance(what, Door) else prepare(what, **given, **settings)
    if isinstance(what, Door) and (given or settings):
        raise UserError(f"give {', '.join([*given, *settings])} to prepare, which made this")
    return run(door)


def prepare(what: Any, *data: Any, **given: Any) -> Door:
    """What `audit` looks at, made ready, for `python -m audit target=…`; arguments as there."""
    if data:
        given["datamodule"] = data[0]
    what = getattr(what, "_orig_mod", what)  # of torch.compile
    known = Settings.__dataclass_fields__
    settings = Settings(**{name: given.pop(name) for name in [*given] if name in known})
    made: Any
    if isinstance(what, L.LightningModule):
        from everytoken.audit.foreign import lightning, own

        is_own = own.is_own(what, given.get("datamodule"))
        made = own.OwnDoor if is_own else lightning.LightningDoor
    elif _is_of(what, "transformers", "Trainer"):
        from everytoken.audit.foreign import hugging_face

        made = hugging_face.TrainerDoor
    elif callable(what) and not isinstance(what, type):
        from everytoken.audit.foreign import loop

        made = loop.LoopDoor
        if "batches" not in given:
            raise UserError("give the function batches: audit(step, batches=examples, collate=…)")
    else:
        raise UserError(
            f"a {type(what).__name__} can't be audited: give a LightningModule, a Trainer of "
            "transformers, or a function from a batch to its loss"
        )
    try:
        return made(what, **given, settings=settings)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        known = [*signature(made.__init__).parameters][2:-1]
        wrong = [name for name in given if name not in known]
        if not wrong:
            raise
        takes = ", ".join(f"{name}=" for name in (*known, *Settings.__dataclass_fields__))
        raise UserError(
            f"{wrong[0]}= isn't for an audit of {made.framework}: it takes {takes}"
        ) from error


def _is_of(what: Any, package: str, name: str) -> bool:
    """True if a class of a package is among its bases; the package isn't imported for that."""
    return any(
        base.__name__ == name and base.__module__.partition(".")[0] == package
        for base in type(what).__mro__
    )


def run(door: Door, checks: Sequence[Check[Door]] | None = None) -> Report:
    """Make all checks, or some."""
    started = time.perf_counter()
    wanted = CHECKS if checks is None else checks
    with made_ready(door):
        if any(check in WITH_PROCESSES for check in wanted):
            with Watch("asking two processes"):
                _ask_processes(door)
        with suppress(Exception):  # the first check says so
            door.learn()
        results = run_checks(door, wanted)
    return Report(results, door.framework, time.perf_counter() - started)


@contextmanager
def made_ready(door: Door) -> Iterator[None]:
    """While it is looked at: its model borrowed, nothing compiled, nothing shown."""
    with ExitStack() as stack:
        stack.enter_context(borrowed(door.model, door.settings.layers))
        stack.enter_context(door.opened())
        stack.enter_context(_without_garbage())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def _without_garbage() -> Iterator[None]:
    """What is here already is none: a Trainer collects garbage before each of its trainings."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _ask_processes(door: Door) -> None:
    """Before anything else: a process that has run a backward on a GPU can't be forked."""
    with suppress(Exception):  # the checks that need them say so
        on_processes(door)


def _or_not_applicable(measure: Callable[[Door], Finding], door: Door) -> Finding:
    try:
        return measure(door)
    except NotApplicableError as reason:
        return not_applicable(reason)


def _asking(check: Check[Door]) -> Check[Door]:
    return replace(check, measure=partial(_or_not_applicable, check.measure))


BASIC = Check(
    "repeatable",
    "the same batch gives the same step, without dropout",
    "dropout or other randomness that stays on in evaluation",
    checks_model.repeatable,
    is_basic=True,
)

_FOUND = (
    *checks_batch.checks()[:2],
    *checks_targets.checks(),
    *checks_batch.checks()[2:],
    *checks_model.checks(),
    *checks_step.checks(),
)
_FIRST = ("collation", "targets hidden")

CHECKS: tuple[Check[Door], ...] = (
    _asking(BASIC),
    *(_asking(check) for check in _FOUND if check.name in _FIRST),
    *(_asking(check) for check in _FOUND if check.name not in _FIRST),
)
"""In the order in which a fault shows first: batches, model, step, several processes."""

WITH_PROCESSES = [check for check in CHECKS if "process" in check.meaning]


def of_target(target: str, **settings: Any) -> Door:
    """What a function of the user's makes, "package.module:make", made ready.

    Raises:
        UserError: there is no such function, or what it made can't be audited.
    """
    name, _, function = target.partition(":")
    if not name or not function:
        raise UserError(f"target={target}: give a function, as target=package.module:make")
    if name.endswith(".py"):
        raise UserError(f"target={target}: give the module, as target={name[:-3]}:{function}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"target={target}: {error}") from error
    make = getattr(module, function, None)
    if not callable(make):
        raise UserError(f"target={target}: {name} has no function {function}")
    with seeded():
        made = make()
    if isinstance(made, Door):
        door = made
        door.settings = replace(door.settings, **settings)
    else:
        door = prepare(*made, **settings) if isinstance(made, tuple) else prepare(made, **settings)
    door.target = (target, settings)
    return door
