"""python scripts/plot_run.py RUN_DIR picture.png: draws the learning curves of a run.

Reads metrics.csv and summary.json; needs matplotlib, which `make test` installs.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from everytoken.errors import BAD_INPUT, UserError
from everytoken.report.collect import by_column, settings, train_loss
from everytoken.run.directory import Run
from everytoken.run.metrics_reader import read_metrics
from everytoken.runtime.console import install
from everytoken.runtime.files import replacing
from everytoken.runtime.redact import print_error

SPREAD = 20
"""How many times the lowest loss the highest is, where the axis becomes logarithmic."""

CURVES = {
    "share that is right": ["train/accuracy", "val/accuracy", "val/exact_match"],
    "score of generated texts": ["val/bleu", "val/chrf"],
}
NAMES = {
    "train/loss": "training",
    "val/loss": "validation",
    "train/accuracy": "tokens, training",
    "val/accuracy": "tokens, validation",
    "val/exact_match": "whole sequences, validation",
    "val/bleu": "BLEU, validation",
    "val/chrf": "chrF, validation",
}
EFFORT = {"seconds/fit": ("{:.0f} s of training", 1), "real_tokens": ("{:.1f} M real tokens", 1e6)}
RESULTS = {
    "test/accuracy": "token accuracy {:.4f}",
    "test/exact_match": "exact match {:.4f}",
    "test/bleu": "BLEU {:.2f}",
    "test/chrf": "chrF {:.2f}",
}


def main() -> int:
    """Draw; mistakes are one line."""
    parser = argparse.ArgumentParser(description="Draws the learning curves of a run.")
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("picture", type=Path, help="the file to write, .png or .svg")
    arguments = parser.parse_args()
    try:
        draw(arguments.run, arguments.picture)
    except UserError as error:
        print_error(str(error))
        return BAD_INPUT
    return 0


def draw(run: Path, picture: Path) -> None:
    """Draw what was logged against optimizer steps.

    Raises:
        UserError: no finished run, no matplotlib, or a picture that can't be written.
    """
    if not find_spec("matplotlib"):
        raise UserError(f"a picture needs a package: {install('compare')}")
    summary = Run(run).summary
    if summary is None:
        raise UserError(f"{run} has no summary.json: give the directory of a finished run")
    points = by_column(read_metrics(Run(run)))
    kind = train_loss(settings(Run(run))) if Run(run).config_file.is_file() else ""
    panels = {"loss": ["train/loss", "val/loss"], **CURVES}
    if kind:  # another loss than that of evaluation: no axis for both
        panels = {"loss": ["val/loss"], f"training loss {kind}": ["train/loss"], **CURVES}
    panels = {title: [name for name in names if name in points] for title, names in panels.items()}
    panels = {title: names for title, names in panels.items() if names}
    if not panels:
        raise UserError(f"{run} has no curves in metrics.csv: restore it from a copy")

    import matplotlib  # here: --help needs none

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    size = (5 * len(panels), 3.6)
    figure, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
    for panel, (title, names) in zip(axes.flat, panels.items(), strict=True):
        first = 0 if names[0].startswith("train/") else 1  # blue is training's
        for index, name in enumerate(names, first):
            steps, values = zip(*sorted(points[name].items()), strict=True)
            is_train = name.startswith("train/")
            style = {"label": NAMES[name], "color": f"C{index}"}
            [line] = panel.plot(steps, values, "-" if is_train else "o-", markersize=4, **style)
            best = next((step for step in points[name] if step == summary.get("best/step")), None)
            if not is_train and best is not None:
                star = {"marker": "*", "markersize": 14, "color": line.get_color()}
                panel.plot([best], [points[name][best]], **star, label="best checkpoint")
        panel.set(xlabel="optimizer steps", ylabel=title)
        if "loss" in title and is_spread([v for name in names for v in points[name].values()]):
            panel.set_yscale("log")
        panel.grid(alpha=0.3)
        panel.legend()
    found = [form.format(summary[name]) for name, form in RESULTS.items() if name in summary]
    effort = [
        f.format(summary[name] / unit) for name, (f, unit) in EFFORT.items() if name in summary
    ]
    told = [f"test: {', '.join(found)}"] * bool(found) + [f"({', '.join(effort)})"] * bool(effort)
    figure.suptitle("  ".join(told))
    try:
        with replacing(picture) as new:
            figure.savefig(new, dpi=110, format=picture.suffix.removeprefix("."))
    except (OSError, ValueError) as error:
        raise UserError(f"can't write {picture}: {error}: give a .png or .svg file") from error


def is_spread(values: Sequence[float]) -> bool:
    """True if a linear axis would show the lower values as one."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and 0 < min(finite) < max(finite) / SPREAD


if __name__ == "__main__":
    sys.exit(main())
