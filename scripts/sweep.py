"""python scripts/sweep.py OUT KEY=RANGE … [key=value …]: a search for settings, with Optuna.

Each trial is a run of its own, `python -m train` in OUT/NUMBER, and the study is Optuna's, in
OUT/study.db: a sweep that ended in any way goes on when the same command is given again. For Linux
and macOS.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from everytoken.config.keys import check_name
from everytoken.errors import BAD_INPUT, UserError
from everytoken.runtime.console import install
from everytoken.runtime.signals import Stopped, stop_requests

EXAMPLE = """\
example:
  python scripts/sweep.py runs/lr 'optimizer.lr=tag(log,interval(1e-4,1e-2))' \\
      'model.layers=range(1,5)' 'optimizer=choice(adamw,sgd)' trainer.max_steps=300"""
SPACE = (
    "what to search, as for Hydra's sweepers: interval(a,b), choice(a,b), range(a,b,step), "
    "tag(log,interval(a,b)), int(interval(a,b)); anything else is a setting of all trials"
)


def main() -> int:
    """Search; the exit code."""
    top = argparse.ArgumentParser(
        description="Searches for the best settings with Optuna; the same command again goes on.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("out", type=Path, metavar="OUT", help="folder of the study and of its runs")
    top.add_argument("overrides", nargs="+", metavar="KEY=VALUE", help=SPACE)
    top.add_argument("--trials", type=int, default=20, help="how many, with those before (20)")
    top.add_argument("--metric", default="val/loss", help="of the best checkpoint (val/loss)")
    ways = ("minimize", "maximize")
    top.add_argument("--direction", choices=ways, help="the metric's own, if it is left out")
    top.add_argument("--seed", type=int, default=1, help="of what is tried (1)")
    asked = top.parse_intermixed_args()
    try:
        if not find_spec("optuna"):
            raise UserError(f"a sweep needs a package: {install('sweep')}")
        if asked.trials < 1:
            raise UserError(f"--trials must be at least 1, got {asked.trials}")
        if not asked.metric.startswith("val/"):
            raise UserError(f"--metric must be one of validation (val/loss), got {asked.metric}")
        check_name(asked.out.name)

        from search.study import search  # only here: it imports optuna

        with stop_requests.listening():
            return search(**vars(asked))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except Stopped as left:
        print(f"stopped ({left.reason}): the same command goes on", file=sys.stderr)
        raise


if __name__ == "__main__":
    sys.exit(main())
