"""What a run directory holds: names of files, and what they say."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from everytoken.config.moved import up_to_date
from everytoken.config.secrets import NOT_OF_RUN, resolved
from everytoken.config.trust import check_data
from everytoken.errors import UserError, one_line
from everytoken.run.stored import read_identity, read_summary

EARLY_END = "ended_early"
"""In run.json, as long as a run is over that made fewer steps than it could."""


@dataclass(frozen=True)
class RunFiles:
    """The files of a run directory, see `Run`."""

    path: Path

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
        return read_summary(self.summary_file) if self.summary_file.exists() else None

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
            UserError: it is damaged, or lacks what commands count on.
        """
        return read_identity(self.identity_file)

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
    def resumptions(self) -> list[dict[str, Any]]:
        """When and where the run went on, and with which changes."""
        return self.identity.get("resumed", [])

    @property
    def early_end(self) -> dict[str, Any] | None:
        """What `note_early_end` was given; None if the run has gone on, or hasn't ended early."""
        return self.identity.get(EARLY_END)

    @property
    def is_unfinished(self) -> bool:
        """True if there is a run here whose end is still to come."""
        return self.identity_file.is_file() and not self.summary_file.exists()
