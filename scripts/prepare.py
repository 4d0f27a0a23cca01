"""python scripts/prepare.py TARGET [group=choice] [key=value] …: a corpus as tokens in shards.

TARGET is a new folder, or an address (s3://BUCKET/FOLDER, gs://, …); what follows is what you would
train with. Each machine then fetches of it what it needs: data=prepared data.path=TARGET.
"""

import argparse
import sys

from everytoken.errors import BAD_INPUT, FAILURE, RunError, UserError
from everytoken.runtime.redact import print_error
from everytoken.runtime.signals import Stopped, stop_requests


def main() -> int:
    """Prepare; mistakes are one line."""
    parser = argparse.ArgumentParser(
        description="Writes what a run would train on as tokens in shards.",
        epilog="example: python scripts/prepare.py s3://bucket/wiki task=causal_lm data=text "
        "data.path=wiki tokenizer=bpe",
    )
    parser.add_argument("target", metavar="TARGET", help="a new folder, or an address")
    overrides = "as of python -m train"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=overrides)
    megabytes = "of a shard, about, in 10^6 bytes (64)"
    parser.add_argument("--shard-megabytes", type=float, default=64, metavar="N", help=megabytes)
    asked = parser.parse_intermixed_args()
    try:
        from everytoken.commands.prepare import prepare  # only here: --help must not wait for torch

        with stop_requests.listening():
            prepare(asked.target, asked.overrides, asked.shard_megabytes)
    except UserError as error:
        print_error(str(error))
        return BAD_INPUT
    except RunError as error:
        print_error(str(error))
        return FAILURE
    except Stopped as left:
        print(f"stopped ({left.reason}): the same command begins again", file=sys.stderr)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
