"""python -m everytoken.tracking RUN: uploads to Weights & Biases what it lacks of a run."""

import sys
from pathlib import Path

from everytoken.errors import BAD_INPUT, UserError
from everytoken.runtime.redact import print_error
from everytoken.tracking.logger import upload


def main(arguments: list[str]) -> None:
    """Upload one run, or print how it is called."""
    try:
        if len(arguments) != 1:
            raise UserError("which run? use python -m everytoken.tracking RUN")
        upload(Path(arguments[0]))
    except UserError as error:
        print_error(str(error))
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main(sys.argv[1:])
