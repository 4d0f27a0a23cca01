"""Which run directory a command trains in: a new one, or one that goes on.

What was learned must go on to fit: changes of the model are refused, those that shape learning are
printed as warnings.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from everytoken.config.check import Command
from everytoken.config.cli import is_run_dir_given, run_dir
from everytoken.config.keys import typed
from everytoken.config.literal import leaves, literal, plain
from everytoken.config.secrets import resolved
from everytoken.errors import BAD_INPUT, UserError
from everytoken.run.directory import Run, remove_empty
from everytoken.run.early_stopping import stopping_keys
from everytoken.run.origin import Origin
from everytoken.run.overrides import AUTO, resumed_run
from everytoken.runtime.console import log, warn
from everytoken.runtime.files import write_whole
from everytoken.runtime.slurm import is_queued_again

FIXED = ("model", "tokenizer", "task", "optimizer._target_", "freeze", "init_from", "adapter")
"""What the weights and the optimizer's state are bound to."""

FREE = (
    *("trainer", "logger", "callbacks", "launcher", "compile", "name", "metrics", "decoding"),
    *("data.num_workers", "data.cache_dir", "data.microbatch_tokens", "data.fields"),
    *("model.attention", "model.checkpoint_activations"),
)
"""What says where and how a run is made, and never changes what is learned …"""

LIMITS = ("trainer.max_steps", "trainer.max_epochs")
"""How long a run is."""

NOT_FREE = ("trainer.gradient_clip_val",)
"""… but for this."""


def claim(cfg: DictConfig, command: Command, held: ExitStack) -> Path | None:
    """Make or find the run directory that a command trains in, ready for it, and lock it.

    Args:
        cfg: the config, checked; of a run that is continued by name, its own under the overrides.
        command: the command line.
        held: keeps the lock.

    Returns:
        None if the run is finished.

    Raises:
        UserError: no such run, or one that can't go on like this.
    """
    if cfg.resume is None and not is_queued_again():
        return _claim_new(cfg, command, held)
    if cfg.resume not in (None, AUTO):
        run = resumed_run(command)
        assert run is not None  # or Hydra would have been given nothing of it
        held.enter_context(run.locked())
        held.enter_context(left_as_it_was_if_refused(run))
        recorded = run.identity.get("overrides")
        if not continued(run, resolved(cfg), recorded and [*recorded, *command.overrides]):
            raise UserError(f"{run.shown} is {_over(run)}")
        return run.path
    values = resolved(cfg)
    here = Run(run_dir())
    found = here if here.identity_file.is_file() else None
    if cfg.resume == AUTO and found is None:
        if not is_run_dir_given():
            found = newest_unfinished(values)
        if found is None:
            log("resume=auto: no unfinished run of this config here, so a new one starts")
    if found is None:
        return _claim_new(cfg, command, held)
    if found != here:
        remove_empty(here.path)
    held.enter_context(found.locked())
    _ = found.identity  # refused before anything is written
    if not found.config_file.is_file():  # killed as it began
        found.write_config(values)
    held.enter_context(left_as_it_was_if_refused(found))
    if continued(found, values, typed("task")):
        return found.path
    log(f"{found.shown} is finished: nothing to do")
    return None


def create_run(cfg: DictConfig, command: Command) -> Run:
    """A new run in Hydra's output directory; in one beside it if another run was faster."""
    started: dict[str, Any] = {"overrides": typed("task")}
    if command.config_name != "train":  # a whole config, which overrides alone don't make
        started = {}
    elif command.adds_folder:
        started["config_dir"] = str(command.folder)
    if cfg.init_from is not None:
        started["init_from"] = Origin.find(cfg.init_from).record()
    return Run.create(run_dir(), cfg, started, numbered=not is_run_dir_given())


def _claim_new(cfg: DictConfig, command: Command, held: ExitStack) -> Path:
    run = create_run(cfg, command)
    held.enter_context(run.locked())
    return run.path


def continued(run: Run, values: DictConfig, overrides: list[str] | None = None) -> bool:
    """Write down that a run goes on with a config; False if it is finished.

    Args:
        run: it.
        values: the config, resolved.
        overrides: that compose to it; None if the run's own config says all.

    Raises:
        UserError: a config that doesn't go on with what was learned.
    """
    found = changes(run, values)
    has_begun = any(run.checkpoint("last").parent.glob("*.ckpt"))
    if run.summary_file.exists():
        longer = any(_is_raised(run.config, values, key) for key in LIMITS)
        before, after = (stopping_keys(config.callbacks) for config in (run.config, values))
        if not longer and not (run.early_end and before != after):
            return False
        if not has_begun:
            raise UserError(
                f"{run.shown} kept no checkpoint to go on from: start a new run, with a callback "
                "that saves one, as callbacks=default"
            )
        run.summary_file.unlink()
    if not has_begun:
        log(f"{run.shown} has no checkpoint yet: it begins again at step 0")
    if other := [note for key, note in found.items() if shapes_learning(key)]:
        warn(f"{', '.join(other)}: from here on this is no longer the same run")
    if free := [note for key, note in found.items() if not shapes_learning(key)]:
        log(f"goes on with {', '.join(free)}")
    if found:
        run.write_config(values)
    run.note_resumption([*found], overrides)
    return True


@contextmanager
def left_as_it_was_if_refused(run: Run) -> Iterator[None]:
    """Take back what `continued` has written if the run is refused before it made a step.

    Some mistakes are only seen when the parts are built: a schedule that can't be extended, say.
    """
    checkpoint = run.checkpoint("last")
    saved = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
    files = [run.config_file, run.identity_file, run.summary_file]
    before = {file: file.read_text("utf-8") for file in files if file.is_file()}
    try:
        yield
    except (UserError, SystemExit) as error:
        code = error.exit_code if isinstance(error, UserError) else error.code
        refused = code == BAD_INPUT
        if refused and saved and checkpoint.exists() and checkpoint.stat().st_mtime_ns == saved:
            for file, text in before.items():
                write_whole(file, text)
        raise


def _over(run: Run) -> str:
    """Why a run is over that has a summary, and what to give for it to go on."""
    limits = [f"{key} is raised" for key in LIMITS if OmegaConf.select(run.config, key) is not None]
    early, over = run.early_end, "finished"
    if early is not None:
        unless = early.get("unless", {}).items()
        limits = [*(f"{key}={literal(value)} is given" for key, value in unless), *limits]
        over = f"over early ({early['reason']})"
    return f"{over}: nothing to resume, unless {' or '.join(limits)}"


def _is_raised(before: DictConfig, after: DictConfig, key: str) -> bool:
    old, new = OmegaConf.select(before, key), OmegaConf.select(after, key)
    return old is not None and (new is None or new > old)


def changes(run: Run, values: DictConfig) -> dict[str, str]:
    """Keys whose values differ from the run's config, with a note of both values.

    Raises:
        UserError: one that would not go on with what was learned.
    """
    before = dict(leaves(plain(run.config)))
    after = dict(leaves(plain(values)))
    keys = [k for k in {**before, **after} if before.get(k) != after.get(k)]
    for key in keys:
        if (
            (key in before or _is_in(key, ("adapter",)))
            and _is_in(key, FIXED)
            and not _is_in(key, FREE)
        ):
            raise UserError(
                f"{run.shown} has {key}={literal(before.get(key))}, and can't go on with "
                f"{literal(after.get(key))}: leave it as it was, or start a new run (with the same "
                f"weights: init_from={run.shown})"
            )
    return {k: f"{k} {literal(before.get(k))} -> {literal(after.get(k))}" for k in keys}


def shapes_learning(key: str) -> bool:
    """True if a run that goes on with another value is another run."""
    return not _is_in(key, FREE) or _is_in(key, NOT_FREE)


def newest_unfinished(values: DictConfig) -> Run | None:
    """The newest run under runs/ of the same config that isn't finished and that nobody trains."""
    wanted = plain(values)
    found = [Run(file.parent.absolute()) for file in Path("runs").rglob("run.json")]
    unfinished = [run for run in found if run.is_unfinished and run.config_file.is_file()]
    for run in sorted(unfinished, key=_begun, reverse=True):
        if plain(run.config) == wanted and not run.is_locked:
            _ = run.identity  # one that is damaged is refused: it may be the one that is wanted
            return run
    return None


def _begun(run: Run) -> str:
    """When; that of a damaged run.json comes first, for nobody knows."""
    try:
        return run.identity["created"]
    except UserError:
        return "~"


def _is_in(key: str, places: tuple[str, ...]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)
