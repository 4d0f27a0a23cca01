"""python scripts/sweep.py OUT KEY=RANGE … [key=value …]: a search for settings, with Optuna.

The study is on disk, so a sweep that ended in any way goes on when the same command is given again.
Each trial is a run of its own, `python -m train` in OUT/NUMBER. For Linux and macOS.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from everytoken.config.keys import check_name
from everytoken.errors import BAD_INPUT, INTERRUPTED, UserError

EXAMPLE = """\
example:
  python scripts/sweep.py runs/lr 'optimizer.lr=tag(log,interval(1e-4,1e-2))' \\
      'model.layers=range(1,5)' 'optimizer=choice(adamw,sgd)' trainer.max_steps=300"""


def main() -> int:
    """Search; the exit code."""
    arguments = parser().parse_intermixed_args()
    try:
        if not find_spec("optuna"):
            raise UserError('a sweep needs a package: pip install "everytoken[sweep]"')
        if arguments.trials < 1:
            raise UserError(f"--trials must be at least 1, got {arguments.trials}")
        if not arguments.metric.startswith("val/"):
            raise UserError(
                f"--metric must be one of validation (val/loss), got {arguments.metric}"
            )
        check_name(arguments.out.name)

        from sweeps.study import sweep  # only here: it imports optuna

        return sweep(
            arguments.out,
            arguments.overrides,
            trials=arguments.trials,
            metric=arguments.metric,
            maximize=arguments.maximize,
            seed=arguments.seed,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        description="Searches for the best settings with Optuna; the same command again goes on.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("out", type=Path, metavar="OUT", help="folder of the study and of its runs")
    top.add_argument(
        "overrides",
        nargs="+",
        metavar="KEY=VALUE",
        help="what to search, as for Hydra's sweepers: interval(a,b), choice(a,b), range(a,b,step),"
        " tag(log,interval(a,b)), int(interval(a,b)); anything else is a setting of all trials",
    )
    top.add_argument("--trials", type=int, default=20, help="how many, with those before (20)")
    top.add_argument("--metric", default="val/loss", help="of the best checkpoint (val/loss)")
    top.add_argument("--maximize", action="store_true", help="the more of it the better")
    top.add_argument("--seed", type=int, default=1, help="of what is tried (1)")
    return top


if __name__ == "__main__":
    sys.exit(main())
