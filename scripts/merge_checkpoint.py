"""python scripts/merge_checkpoint.py CHECKPOINT FILE: one file of a checkpoint in shards.

The file is what a run in one process would have written. Takes as much memory as the file is large.
"""

import argparse
import sys
from pathlib import Path

from everytoken.errors import BAD_INPUT, UserError
from everytoken.runtime.redact import print_error


def main() -> int:
    """Merge; mistakes are one line."""
    parser = argparse.ArgumentParser(description="Makes one file of a checkpoint in shards.")
    parser.add_argument("checkpoint", type=Path, help="RUN_DIR/checkpoints/last.ckpt, say")
    parser.add_argument("file", type=Path, help="a new file: FOLDER/last.ckpt")
    words = parser.parse_args()
    try:
        merge(words.checkpoint, words.file)
    except UserError as error:
        print_error(str(error))
        return BAD_INPUT
    print(f"{words.file} has all of it")
    return 0


def merge(checkpoint: Path, file: Path) -> None:
    """Write a checkpoint, in shards or not, into one file.

    Raises:
        UserError: it can't be read, or the file can't be written.
    """
    from everytoken.run.checkpoint_file import read, write  # only here: --help needs no torch

    if file.exists():
        raise UserError(f"{file} is there already: give the name of a new file")
    if file.suffix != ".ckpt":
        raise UserError(f"{file} must end in .ckpt, by which checkpoints are known")
    try:
        write(read(checkpoint), file, keep=1)
    except OSError as error:
        raise UserError(f"can't write {file}: {error.strerror or error}") from error


if __name__ == "__main__":
    sys.exit(main())
