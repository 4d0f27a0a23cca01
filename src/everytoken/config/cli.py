"""The command line of all entry points: Hydra, with mistakes answered in one line.

Imports nothing heavy, so that `--help`, `--cfg job` and mistakes are answered at once.
"""

import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    GrammarParseError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)
from yaml import YAMLError

from everytoken.config.check import (
    Command,
    check_command,
    check_job,
    read_command,
)
from everytoken.config.composing import composed
from everytoken.config.help import answered
from everytoken.config.hydra_internals import run
from everytoken.config.jobs import Job
from everytoken.config.keys import WHOLE, conf_dir, did_you_mean, key_paths, typed
from everytoken.config.places import matching, place, told
from everytoken.config.words import unreadable
from everytoken.errors import BAD_INPUT, FAILURE, RunError, UserError, one_line
from everytoken.runtime.console import LEVELS, install, set_level
from everytoken.runtime.rank import to_the_end
from everytoken.runtime.redact import print_error
from everytoken.runtime.signals import EXIT_CODES, Stopped, stop_requests
from everytoken.runtime.unexpected import kept, show_if_asked


@to_the_end()
def main(
    config_name: str,
    job: Callable[[DictConfig, Command], None],
    *,
    check: Callable[[DictConfig], None],
    expand: Callable[[Command], list[str]] = lambda command: command.overrides,
    undo: Callable[[], None] = lambda: None,
    conclude: Callable[[dict[int, int | None], list[Job]], None] = lambda ends, jobs: None,
) -> None:
    """Run `job` on the config that the command line asks for; exits the process on mistakes.

    Args:
        config_name: the primary config, conf/<config_name>.yaml.
        job: does the work, given the config and the command; may raise UserError.
        check: looks at the config first; may raise UserError.
        expand: the overrides to compose, where the typed ones are not all; may raise UserError.
        undo: called if the user's mistake or a signal ended the job.
        conclude: called after the jobs of a sweep, with the exit code of each that failed. One
            that fails ends no other, unless it was asked to stop.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands exceptions on instead of printing them

    # Without a handler its errors, which are printed here, would be printed by Python itself.
    logging.getLogger("hydra").addHandler(logging.NullHandler())

    started = False
    command: Command | None = None
    checked: DictConfig | None = None
    jobs: list[Job] = []
    ends: dict[int, int | None] = {}

    def guarded(cfg: DictConfig) -> None:
        if (job_of_sweep := Job.current()) is None:
            work(cfg)
            return
        jobs.append(job_of_sweep)
        ends[job_of_sweep.number] = None
        try:
            work(cfg)
        except Stopped:
            raise
        except SystemExit as left:
            if left.code in EXIT_CODES.values():
                raise
            ends[job_of_sweep.number] = left.code if isinstance(left.code, int) else FAILURE

    def work(cfg: DictConfig) -> None:
        nonlocal started
        assert command is not None
        # None of these may pass through Hydra, which would print lines of its own.
        try:
            with stop_requests.listening():
                cfg = checked if checked is not None else check_job(cfg, check, command)
                started = True
                job(cfg, command)
        except UserError as error:
            undo()
            show_if_asked(error.__cause__)
            print_error(str(error))
            sys.exit(error.exit_code)
        except RunError as error:
            print_error(str(error))
            sys.exit(FAILURE)
        except OmegaConfBaseException as error:
            undo()
            show_if_asked(error)
            _exit(explain(error, config_name))
        except Stopped as left:
            undo()
            if not left.agreed:
                print(f"left at once ({left.reason})", file=sys.stderr)
            raise
        except BrokenPipeError:
            raise
        except Exception as error:
            undo()
            print_error(kept(error, None))
            sys.exit(FAILURE if started else BAD_INPUT)

    guarded.__module__ = "__main__"
    decorate = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)
    try:
        if (text := answered(sys.argv[1:], config_name, job)) is not None:
            print(text, flush=True)
            return
        command = read_command(config_name)
        hear(command)
        overrides = expand(command)
        found = None if command.asks else check_command(command, config_name, overrides, check)
        sys.argv[len(sys.argv) - len(command.overrides) :] = overrides
        if found is None:
            decorate(guarded)()
        else:
            whole, checked = found
            run(whole, command.folder, guarded)
        if len(jobs) > 1:
            conclude(ends, jobs)
        if any(code is not None for code in ends.values()):
            sys.exit(FAILURE)
    except UserError as error:
        _exit(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        if started:
            raise  # a fault of the job, not of the command line
        _exit(explain(error, config_name, command))
    except ValueError as error:  # what Hydra says to GROUP=null
        if started:
            raise
        if "Config group override" not in str(error):
            _exit(one_line(error))
        _exit("a group can't be null: leave it out, or choose none where there is such a choice")
    except YAMLError as error:
        if started:
            raise
        _exit(f"can't read a config: {told(error)}")
    except BrokenPipeError:  # the reader (head, say) has enough
        if started:
            raise  # a run that didn't end isn't a success
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if started:
            raise
        show_if_asked(error)
        reason = f"{error.filename}: {error.strerror}"
        _exit(f"can't make the run directory ({reason}): give another with hydra.run.dir=PATH")
    except Exception as error:  # of Hydra, which trusts its input more than is good
        if started:
            raise
        if type(error).__module__.partition(".")[0] == "submitit":
            print_error(f"a SLURM job didn't end well: {kept(error, None)}")
            sys.exit(FAILURE)
        _exit(f"can't read this command: {kept(error, None)}")


def hear(command: Command) -> None:
    """Set the level of the log as it was typed, before anything is imported that may be heard."""
    typed = [o.partition("=")[2] for o in command.overrides if o.startswith("log_level=")]
    if typed and typed[-1] in LEVELS:
        set_level(typed[-1])


def run_dir() -> Path:
    """Hydra's output directory of this job."""
    return Path(HydraConfig.get().runtime.output_dir)


def is_run_dir_given() -> bool:
    """True if the user names the directory of this job, or of the sweep that it belongs to."""
    overrides = typed("hydra")
    return any(key in line for line in overrides for key in ("hydra.run.dir=", "hydra.sweep.dir="))


def _of_resolver(error: BaseException) -> str:
    """What a resolver of ours refused, if that is behind an error; else ""."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, UserError):
        found = found.__cause__ or found.__context__
    return "" if found is None else str(found)


def explain(error: Exception, config_name: str, command: Command | None = None) -> str:
    """One line for a mistake that Hydra found in a command, if there is one."""
    text = one_line(error)
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        if choice == "submitit_slurm":
            return f"launcher=slurm needs a package: {install('slurm')}"
        return f"no choice {choice!r} in group {group!r}: choose {', '.join(error.options)}"
    if found := re.search(r"Could not load '([^/']+)/([^']+)'", text):  # one of a list of them
        there = sorted(file.stem for file in (conf_dir() / found[1]).glob("*.yaml"))
        return f"no choice {found[2]!r} in group {found[1]!r}: choose {', '.join(there)}"
    if isinstance(error, OverrideParseException):
        return unreadable(str(error.override), config_name)
    if found := re.search(r"Ambiguous value for argument '([^=]+)=(.*?)' 1\.", text):
        key, values = found.groups()
        return (
            f"{key}={values} has several values: add --multirun for a job with each; or give one, "
            f"a list as {key}=[{values}], or a text as {key}=\"'{values}'\""
        )
    if found := re.match(r"(\S+) appears more than once in the final defaults list", text):
        return f"{found[1]} is chosen twice: in a YAML write - override /{found[1]}: CHOICE"
    if found := re.search(r"In '([^']+)': .*Cannot merge DictConfig with ListConfig", text):
        return f"{found[1]}.yaml begins with a list, and a choice has keys: write KEY: VALUE"
    if isinstance(cause := error.__cause__, GrammarParseError) and not text.endswith("."):
        last = str(cause.full_key or "").rpartition(".")[2]
        at = _at(rf"^\s*{re.escape(last)}:.*\$\{{", command)
        return f"{at}{cause.full_key}: {one_line(cause)}: what begins with ${{ ends with }}"
    if found := re.search(r"Could not override '([^']+)'", text):
        key, _, package = found[1].partition("@")
        at = _at(rf"override\s+/?{re.escape(key)}\b", command)
        if package.partition(".")[0] in WHOLE:
            group = package.partition(".")[0]
            return (
                f"{at}a YAML of {group}/ overrides {key} in {package}: begin it with the line "
                "# @package _global_"
            )
        part, _, last = key.rpartition(".")
        if part and last.isdigit():
            return f"a number as a key stands in braces: {part}={{{last}:VALUE}} keeps the others"
        known = _known_keys(config_name, command)
        if key in known and "." not in key:
            return (
                f"{at}this config has no choice of {key}: set its keys instead, as {key}.KEY=VALUE"
            )
        if key in known:
            return f"{at}nothing that was chosen has {key}{did_you_mean(key, [])}"
        return f"{at}unknown key {key}{did_you_mean(key, known)}"
    if isinstance(error, ConfigAttributeError | ConfigKeyError) and error.full_key:
        return f"{error.full_key} is missing: give {error.full_key}=VALUE, or don't delete it"
    if found := re.search(r"Error merging override (\S+)", text):
        return f"can't set {found[1]}: {str(error.__cause__).splitlines()[0]}"
    if isinstance(error, InterpolationResolutionError) and (own := _of_resolver(error)):
        return own
    if isinstance(error, InterpolationResolutionError) and error.full_key:
        reason = str(error).splitlines()[0].rpartition("interpolation: ")[2]
        at = place(error.full_key, command.folder) if command else ""
        if named := re.search(r"'([\w.]+)'", reason):  # or where it is named, for another key
            at = at or _at(rf"\$\{{.*{re.escape(named[1])}", command)
        return f"{at}{error.full_key} can't be resolved: {reason.strip(chr(34))}"
    return text


def _at(pattern: str, command: Command | None) -> str:
    """File and line of what a YAML says; "" if it was typed."""
    if command is None or any(re.search(pattern, word) for word in command.overrides):
        return ""
    return matching(pattern, command.folder, command.overrides)


def _known_keys(config_name: str, command: Command | None) -> list[str]:
    """All keys of a primary config, then those that the choices of a command add to them."""
    GlobalHydra.instance().clear()
    usual = list(key_paths(composed(conf_dir(), config_name, [])))
    if command is None:
        return usual
    chosen = [o for o in command.overrides if (conf_dir() / o.partition("=")[0]).is_dir()]
    try:
        found = key_paths(composed(command.folder, command.config_name, chosen))
        return [*usual, *(key for key in found if key not in usual)]
    except HydraException:
        return usual


def _exit(message: str) -> None:
    print_error(message)
    sys.exit(BAD_INPUT)
