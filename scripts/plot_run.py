"""python scripts/plot_run.py RUN_DIR picture.png: draws the learning curves of a run.

Reads metrics.csv and summary.json; needs matplotlib, which `make test` installs.
"""

import argparse
import csv
import sys
from importlib.util import find_spec
from pathlib import Path

from everytoken.errors import BAD_INPUT, UserError
from everytoken.run.directory import Run
from everytoken.runtime.console import install

CURVES = {
    "loss": ["train/loss", "val/loss"],
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
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    return 0


def draw(run: Path, picture: Path) -> None:
    """Draw what was logged against optimizer steps.

    Raises:
        UserError: no finished run, no matplotlib, or a picture that can't be written.
    """
    if not find_spec("matplotlib"):
        raise UserError(f"a picture needs a package: {install('compare')}")
    if (summary := Run(run).summary) is None:
        raise UserError(f"{run} has no summary.json: give the directory of a finished run")
    points = read(run / "metrics.csv")

    import matplotlib  # here: --help needs none

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    curves = {title: names for title, names in CURVES.items() if set(names) & set(points)}
    size = (5 * len(curves), 3.6)
    figure, axes = plt.subplots(1, len(curves), figsize=size, layout="constrained", squeeze=False)
    for panel, (title, names) in zip(axes.flat, curves.items(), strict=True):
        for name in names:
            if line := points.get(name):
                style = "-" if name.startswith("train/") else "o-"
                panel.plot(*zip(*line, strict=True), style, label=NAMES[name], markersize=4)
        panel.set(xlabel="optimizer steps", ylabel=title)
        panel.grid(alpha=0.3)
        panel.legend()
    axes[0, 0].set_yscale("log")
    found = (form.format(summary[name]) for name, form in RESULTS.items() if name in summary)
    seconds, tokens = summary["seconds/fit"], summary["real_tokens"] / 1e6
    title = f"test: {', '.join(found)}  ({seconds:.0f} s of training, {tokens:.1f} M real tokens)"
    figure.suptitle(title)
    try:
        figure.savefig(picture, dpi=110)
    except (OSError, ValueError) as error:
        raise UserError(f"can't write {picture}: {error}: give a .png or .svg file") from error


def read(path: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every logged name."""
    points: dict[str, list[tuple[int, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value:
                    points.setdefault(name, []).append((int(row["step"]), float(value)))
    return points


if __name__ == "__main__":
    sys.exit(main())
