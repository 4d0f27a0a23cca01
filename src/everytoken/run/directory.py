"""A run: its directory and its identity, decided once, by the process that the user started.

`config.yaml` is the config, resolved; `run.json` says who the run is. Every rank reads these two
files, so no rank resolves a time stamp of its own.
"""

import itertools
import json
import math
import shutil
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from everytoken.config.literal import shown_command
from everytoken.config.moved import up_to_date
from everytoken.config.seal import sealed
from everytoken.config.secrets import NOT_OF_RUN, check_set, resolved
from everytoken.config.trust import check_data, check_environment, check_targets, own_names
from everytoken.errors import UserError, one_line
from everytoken.run.identity import identity
from everytoken.run.lock import is_locked, lock
from everytoken.runtime.files import write_json, write_whole

PARTS = ("data", "tokenizer", "task", "decoding", "model", "optimizer", "trainer", "precision")
"""Without which no run's config is one."""

NOT_BUILT = ("callbacks", "logger")
"""From which nothing is built of a run that is evaluated or generated from."""

EARLY_END = "ended_early"
"""In run.json, as long as a run is over that made fewer steps than it could."""

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


@dataclass(frozen=True)
class Run:
    """A run directory."""

    path: Path

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
            if len(list(candidate.iterdir())) > 1:
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
        for file in (run.config_file, run.identity_file):
            if not file.is_file():
                raise UserError(f"{path} is no run directory: it has no {file.name}")
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

    @property
    def config_file(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def identity_file(self) -> Path:
        """Id, name, time, commit and versions."""
        return self.path / "run.json"

    @property
    def tokenizer_file(self) -> Path:
        """The run's tokenizer; beside it tokenizer_config.json says which tokens are special."""
        return self.path / "tokenizer.json"

    @property
    def data_file(self) -> Path:
        """What the splits hold."""
        return self.path / "data.json"

    @property
    def summary_file(self) -> Path:
        """Final metrics, flat."""
        return self.path / "summary.json"

    @property
    def summary(self) -> dict[str, float] | None:
        """What it says, NaN for null; None as long as the run isn't finished.

        Raises:
            UserError: it is damaged.
        """
        if not self.summary_file.exists():
            return None
        try:
            found = json.loads(self.summary_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"can't read {self.summary_file} ({one_line(error)})") from error
        return {name: math.nan if value is None else value for name, value in found.items()}

    @property
    def nonfinite_folder(self) -> Path:
        """Files of steps whose gradient was NaN or infinite."""
        return self.path / "nonfinite"

    @property
    def lock_file(self) -> Path:
        """Held by the process that trains."""
        return self.path / ".lock"

    def checkpoint(self, name: str) -> Path:
        """The checkpoint "best" or "last"."""
        return self.path / "checkpoints" / f"{name}.ckpt"

    @property
    def identity(self) -> dict[str, Any]:
        """What run.json says.

        Raises:
            UserError: it is damaged.
        """
        try:
            return json.loads(self.identity_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"can't read {self.identity_file} ({error}): is it a run?") from error

    @property
    def config(self) -> DictConfig:
        """What config.yaml says, as values, without the part that is for Hydra.

        Only what it takes from the environment is left as it is written.

        Raises:
            UserError: it is damaged, or computes something.
        """
        try:
            cfg = OmegaConf.load(self.config_file)
        except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
            reason = one_line(error)
            raise UserError(f"can't read {self.config_file} ({reason}): is it a run?") from error
        if not isinstance(cfg, DictConfig) or "name" not in cfg:
            raise UserError(f"{self.config_file} is not a run's config: give another run=DIR")
        for key in NOT_OF_RUN:
            cfg.pop(key, None)
        cfg = up_to_date(cfg)
        check_data(cfg, str(self.config_file))
        try:
            return resolved(cfg)
        except OmegaConfBaseException as error:
            raise UserError(
                f"{self.config_file} refers to what it doesn't hold ({one_line(error)}): write the "
                "value out"
            ) from error

    @property
    def is_unfinished(self) -> bool:
        """True if there is a run here whose end is still to come."""
        return self.identity_file.is_file() and not self.summary_file.exists()

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

    @property
    def early_end(self) -> dict[str, Any] | None:
        """What `note_early_end` was given; None if the run has gone on, or hasn't ended early."""
        return self.identity.get(EARLY_END)

    def note_step(self, step: int) -> None:
        """Add to it at which step the run went on."""
        if self.identity_file.is_file() and self.resumptions:
            self._note({"resumed": [*self.resumptions[:-1], self.resumptions[-1] | {"step": step}]})

    @property
    def resumptions(self) -> list[dict[str, Any]]:
        """When and where the run went on, and with which changes."""
        return self.identity.get("resumed", [])

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
