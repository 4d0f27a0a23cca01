"""A run: its directory and its identity, decided once, by the process that the user started.

`config.yaml` is the config, resolved; `run.json` says who the run is. Every rank reads these two
files, so no rank resolves a time stamp of its own.
"""

import itertools
import json
import shutil
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from everytoken.config.literal import shown_command
from everytoken.config.seal import sealed
from everytoken.config.secrets import check_set, resolved
from everytoken.config.trust import check_environment, check_targets, own_names
from everytoken.errors import UserError, one_line
from everytoken.run.identity import identity
from everytoken.run.layout import EARLY_END, RunFiles
from everytoken.run.lock import is_locked, lock
from everytoken.runtime.files import write_json, write_whole
from everytoken.runtime.unexpected import TRACEBACK

PARTS = ("data", "tokenizer", "task", "decoding", "model", "optimizer", "trainer", "precision")
"""Without which no run's config is one."""

NOT_BUILT = ("callbacks", "logger")
"""From which nothing is built of a run that is evaluated or generated from."""

CONFIG_HEAD = """\
# The resolved config of this run. To repeat it, in a new directory:
#   {again}
defaults:
  - _self_
  - override hydra/job_logging: none
  - override hydra/hydra_logging: own

resume: null
trust: null
hydra:
  run:
    dir: runs/${{now:%Y-%m-%d}}/${{now:%H-%M-%S}}-${{name}}
  sweep:
    dir: runs/${{now:%Y-%m-%d}}/${{now:%H-%M-%S}}-${{name}}
    subdir: ${{hydra.job.num}}
  output_subdir: null

"""


class Run(RunFiles):
    """A run directory."""

    @classmethod
    def create(
        cls,
        path: Path,
        cfg: DictConfig,
        started: Mapping[str, Any] | None = None,
        *,
        numbered: bool = False,
    ) -> "Run":
        """Claim a directory, write run.json and config.yaml.

        Args:
            path: a directory that is empty or doesn't exist.
            cfg: the config; what it takes from the environment (`oc.env`) is not written.
            started: how it was composed, for run.json: its overrides, a folder of further choices.
            numbered: if another run has the directory, take PATH-2, PATH-3, … instead.

        Raises:
            UserError: the directory holds something already, or can't be written.
        """
        try:
            record = identity(cfg.name) | dict(started or {})
            run = cls._claim(path, json.dumps(record, indent=2) + "\n", numbered)
            run.write_config(resolved(cfg))
        except OSError as error:
            raise UserError(
                f"can't write the run directory ({error.filename}: {error.strerror}): "
                "give another with hydra.run.dir=PATH"
            ) from error
        return run

    @classmethod
    def _claim(cls, path: Path, identity: str, numbered: bool) -> "Run":
        candidates = (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
        for candidate in itertools.chain([path], candidates if numbered else []):
            run = cls(candidate)
            candidate.mkdir(parents=True, exist_ok=True)
            try:
                with run.identity_file.open("x", encoding="utf-8") as file:  # atomic
                    file.write(identity)
            except FileExistsError:
                continue
            left = {run.identity_file, candidate / TRACEBACK}  # of a run that broke at once
            if {*candidate.iterdir()} - left:
                run.identity_file.unlink()
                raise UserError(
                    f"{candidate} is not empty: give a new directory with hydra.run.dir=PATH"
                )
            return run
        raise UserError(f"{path} holds a run already: give another with hydra.run.dir=PATH")

    @classmethod
    def find(cls, path: Path) -> "Run":
        """A run of which nothing is going to be built.

        Raises:
            UserError: there is none.
        """
        run = cls(path)
        if not path.is_dir():
            raise UserError(
                f"no run directory {path}: run=DIR and resume=DIR take one that train made"
            )
        if run.identity_file.is_file() and not run.config_file.is_file():
            again = shown_command("train", "resume=auto", **{"hydra.run.dir": str(path)})
            raise UserError(
                f"{path} has no config.yaml: it was killed as it began, so nothing is lost; "
                f"start it again with {again}, and what you typed then"
            )
        for file in (run.config_file, run.identity_file):
            if not file.is_file():
                raise UserError(
                    f"{path} is no run directory: it has no {file.name}; restore it from a copy, "
                    "or give another directory"
                )
        _ = run.config
        return run

    @classmethod
    def open(
        cls, path: Path, trusted: Iterable[str] = (), not_built: Collection[str] = ()
    ) -> "Run":
        """A run that `create` made, here or elsewhere, of which something is going to be built.

        Args:
            path: of the directory.
            trusted: code that its config may call besides what conf/ and src/ have.
            not_built: keys of its config from which nothing is going to be built.

        Raises:
            UserError: there is none, or its config would call code that isn't this project's.
        """
        run = cls.find(path)
        trusted = {*trusted, *own_names(run.config_file)}
        cfg, place = run.config, str(run.config_file)
        check_targets(cfg, place, trusted, not_built)
        check_environment(cfg, place, trusted, not_built)
        try:
            check_set(cfg, not_built)
        except OmegaConfBaseException as error:
            raise UserError(f"{place} needs what isn't here: {one_line(error)}") from error
        return run

    @classmethod
    def open_whole(
        cls, path: Path, trusted: Iterable[str] = (), not_built: Collection[str] = ()
    ) -> "Run":
        """The same, with all parts of a run that trains or is evaluated.

        Raises:
            UserError: as `open`, or a part is missing.
        """
        run = cls.open(path, trusted, not_built)
        config = run.config
        if lost := [part for part in PARTS if not isinstance(config.get(part), DictConfig)]:
            raise UserError(f"{run.config_file} lacks {', '.join(lost)}: give another run=DIR")
        return run

    @property
    def shown(self) -> Path:
        """The path as short as it can be from the working directory, for messages."""
        return shown(self.path)

    def write_config(self, config: Any) -> None:
        """Write config.yaml, from what `resolved` gives."""
        again = shown_command("train", "--config-dir", self.path, "--config-name", "config")
        text = CONFIG_HEAD.format(again=again) + OmegaConf.to_yaml(config)
        write_whole(self.config_file, sealed(text))

    def note_resumption(self, changed: list[str], overrides: list[str] | None = None) -> None:
        """Add to run.json that the run goes on now.

        Args:
            changed: keys of its config.
            overrides: that compose to its config now; None for those that it has.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        started = {} if overrides is None else {"overrides": overrides}
        resumptions = [*self.resumptions, {"time": now, "step": 0, "changed": changed}]
        self._note(started | {"resumed": resumptions, EARLY_END: None})

    def note_early_end(self, end: Mapping[str, Any]) -> None:
        """Add to it that the run ended before its last step: step, of how many, and reason."""
        self._note({EARLY_END: dict(end)})

    def note_step(self, step: int) -> None:
        """Add to it at which step the run went on."""
        if self.identity_file.is_file() and self.resumptions:
            self._note({"resumed": [*self.resumptions[:-1], self.resumptions[-1] | {"step": step}]})

    def _note(self, entries: dict[str, Any]) -> None:
        identity = self.identity | entries
        if identity.get(EARLY_END) is None:
            identity.pop(EARLY_END, None)
        write_json(self.identity_file, identity)

    def locked(self) -> AbstractContextManager[None]:
        """Hold the directory, as long as this process lives at most: one process trains in it.

        Raises:
            UserError: another process has it.
        """
        return lock(self.lock_file, str(self.shown))

    @property
    def is_locked(self) -> bool:
        """True if a process trains in the directory."""
        return is_locked(self.lock_file)

    def discard_unless_trained(self) -> None:
        """Remove what was written of a new run that failed before its first checkpoint or metric.

        One that was resumed stays: it is to be resumed again.
        """
        kept = (self.path / "checkpoints", self.path / "metrics.csv", self.nonfinite_folder)
        if self.resumptions or any(path.exists() for path in kept):
            return
        tokenizer_config = self.tokenizer_file.with_name("tokenizer_config.json")
        written = (self.config_file, self.identity_file, self.tokenizer_file, self.data_file)
        for file in (*written, tokenizer_config, self.lock_file):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.path / "wandb", ignore_errors=True)
        remove_empty(self.path)


def shown(path: Path) -> Path:
    """A path as short as it can be from the working directory."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def remove_empty(folder: Path) -> None:
    """Remove an empty run directory, and those above it in runs/ that it leaves empty."""
    while folder.is_dir() and folder != Path.cwd() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
        if not folder.is_relative_to(Path("runs").absolute()):
            break
