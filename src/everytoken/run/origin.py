"""Whose weights a new run begins with: what `init_from=` names."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from everytoken.errors import UserError
from everytoken.run.directory import Run, shown

PROGRAM = "model.pt2"
"""In a folder that an encoder-decoder was exported to: a program, no weights by name."""

BLOCK = 2**20
"""Bytes that are read at a time."""


@dataclass(frozen=True)
class Origin:
    """Weights that exist."""

    files: tuple[Path, ...]
    """A checkpoint; or the safetensors of a folder."""
    folder: Path
    """Where tokenizer.json is."""
    run: Run | None
    """Whose checkpoint it is; None of a folder for transformers."""

    @classmethod
    def find(cls, place: str) -> "Origin":
        """What a path names: a run directory, a checkpoint of a run, a folder that was exported.

        Of a run the best checkpoint, or the last if it keeps no best.

        Raises:
            UserError: none of these, with what to type.
        """
        path = Path(place).expanduser().absolute()
        if path.is_file():
            return cls._of_checkpoint(place, path)
        if (path / "run.json").is_file():
            run = Run.find(path)
            kept = [run.checkpoint(name) for name in ("best", "last")]
            found = next((file for file in kept if file.is_file()), None)
            if found is None:
                raise UserError(
                    f"init_from={place}: this run has no checkpoint best or last; give another run,"
                    " or the path of a checkpoint's file"
                )
            return cls((found,), path, run)
        weights = tuple(sorted(path.glob("*.safetensors")))
        if (path / "config.json").is_file() and weights:
            return cls(weights, path, None)
        if (path / PROGRAM).is_file():
            raise UserError(
                f"init_from={place} holds a program, {PROGRAM}: give the run that it was exported "
                "from"
            )
        raise UserError(
            f"init_from={place} is no run directory (it has no run.json), and no folder with "
            "config.json and safetensors: give one of these, or a checkpoint's file"
        )

    @classmethod
    def _of_checkpoint(cls, place: str, path: Path) -> "Origin":
        run = Run(path.parent.parent)
        if path.suffix != ".ckpt" or not run.identity_file.is_file():
            raise UserError(
                f"init_from={place} is no checkpoint in a run's checkpoints/, whose tokenizer and "
                "sizes could be known: give the run directory"
            )
        return cls((path,), run.path, Run.find(run.path))

    @property
    def tokenizer_file(self) -> Path:
        """The tokenizer that its embeddings belong to."""
        return self.folder / "tokenizer.json"

    @property
    def name(self) -> str:
        """For messages."""
        return str(shown(self.files[0] if self.run else self.folder))

    def record(self) -> dict[str, str]:
        """Its place and SHA-256, as run.json keeps them.

        Raises:
            UserError: it can't be read.
        """
        digest = hashlib.sha256()
        try:
            for path in self.files:
                with path.open("rb") as file:
                    while block := file.read(BLOCK):
                        digest.update(block)
        except OSError as error:
            raise UserError(f"can't read {self.name}: {error.strerror}") from error
        return {
            "path": str(self.files[0] if self.run else self.folder),
            "sha256": digest.hexdigest(),
        }
