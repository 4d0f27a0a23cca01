"""python scripts/plot_run.py RUN_DIR picture.png: draws the learning curves of a run.

Reads metrics.csv; needs matplotlib, which `make test` installs.
"""

import argparse
import csv
import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

CURVES = {
    "loss": ["train/loss", "val/loss"],
    "share that is right": ["train/accuracy", "val/accuracy", "val/exact_match"],
}
NAMES = {
    "train/loss": "training",
    "val/loss": "validation",
    "train/accuracy": "tokens, training",
    "val/accuracy": "tokens, validation",
    "val/exact_match": "whole sequences, validation",
}


def main() -> None:
    """Draw loss and accuracy against real tokens seen."""
    parser = argparse.ArgumentParser(description="Draws the learning curves of a run.")
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("picture", type=Path, help="the file to write, .png or .svg")
    arguments = parser.parse_args()
    points = read(arguments.run / "metrics.csv")
    summary = json.loads((arguments.run / "summary.json").read_text(encoding="utf-8"))

    figure, panels = plt.subplots(1, len(CURVES), figsize=(10, 3.6), layout="constrained")
    for panel, (title, names) in zip(panels, CURVES.items(), strict=True):
        for name, style in zip(names, ("-", "o-", "s-"), strict=False):
            if line := points.get(name):
                panel.plot(*zip(*line, strict=True), style, label=NAMES[name], markersize=4)
        panel.set(xlabel="optimizer steps", ylabel=title)
        panel.grid(alpha=0.3)
        panel.legend()
    panels[0].set_yscale("log")
    title = f"test: token accuracy {summary['test/accuracy']:.4f}"
    if "test/exact_match" in summary:
        title += f", exact match {summary['test/exact_match']:.4f}"
    seconds, tokens = summary["seconds/fit"], summary["real_tokens"] / 1e6
    figure.suptitle(f"{title}  ({seconds:.0f} s of training, {tokens:.1f} M real tokens)")
    figure.savefig(arguments.picture, dpi=110)


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
    main()
