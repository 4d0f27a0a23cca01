"""Which file `checkpoint=` names, and which of its weights."""

from dataclasses import dataclass
from pathlib import Path

from everytoken.errors import UserError
from everytoken.run.directory import Run

RAW = "raw-"
"""Before a name: the weights that were trained, where their average was validated and kept."""


@dataclass(frozen=True)
class NamedCheckpoint:
    """A checkpoint of a run, by name."""

    path: Path
    is_raw: bool
    """True for the weights that were trained, false for those that were validated."""

    @classmethod
    def of(cls, run: Run, name: str) -> "NamedCheckpoint":
        """The checkpoint that a name stands for.

        Args:
            run: whose checkpoints/ is looked into.
            name: "best", "last", the name of another file there, or the path of one anywhere;
                after "raw-", for the weights that were trained beside their average.

        Raises:
            UserError: there is none, with those that there are.
        """
        folder = run.path / "checkpoints"
        names = {False: name} | ({True: name.removeprefix(RAW)} if name.startswith(RAW) else {})
        for is_raw, rest in names.items():
            for path in (folder / f"{rest}.ckpt", folder / rest, Path(rest).expanduser()):
                if path.is_file():
                    return cls(path, is_raw)
        there = sorted(path.stem for path in folder.glob("*.ckpt"))
        if not there:
            raise UserError(
                f"{run.shown} has no checkpoint: none of its callbacks saved one, or not yet"
            )
        raise UserError(
            f"no checkpoint {name} in {run.shown}: choose one of {', '.join(there)}, or {RAW} and "
            "one of these, or give the path of a file"
        )

    @property
    def label(self) -> str:
        """For names of files."""
        return f"{RAW if self.is_raw else ''}{self.path.stem}"


def pointed(run: str, checkpoint: str) -> tuple[str, str]:
    """run= and checkpoint=, where run= may name a checkpoint's file.

    Raises:
        UserError: both name one.
    """
    file = Path(run)
    if file.suffix != ".ckpt" or file.is_dir():
        return run, checkpoint
    if checkpoint not in ("best", str(file)):
        raise UserError(
            f"run={run} names a checkpoint, and checkpoint={checkpoint} another: give one"
        )
    return str(file.absolute().parent.parent), str(file.absolute())
