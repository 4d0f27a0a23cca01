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


def main() -> None:
    """Draw what was logged against optimizer steps."""
    parser = argparse.ArgumentParser(description="Draws the learning curves of a run.")
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("picture", type=Path, help="the file to write, .png or .svg")
    arguments = parser.parse_args()
    points = read(arguments.run / "metrics.csv")
    summary = json.loads((arguments.run / "summary.json").read_text(encoding="utf-8"))

    curves = {title: names for title, names in CURVES.items() if set(names) & set(points)}
    size = (5 * len(curves), 3.6)
    figure, panels = plt.subplots(1, len(curves), figsize=size, layout="constrained")
    for panel, (title, names) in zip(panels, curves.items(), strict=True):
        for name in names:
            if line := points.get(name):
                style = "-" if name.startswith("train/") else "o-"
                panel.plot(*zip(*line, strict=True), style, label=NAMES[name], markersize=4)
        panel.set(xlabel="optimizer steps", ylabel=title)
        panel.grid(alpha=0.3)
        panel.legend()
    panels[0].set_yscale("log")
    found = (form.format(summary[name]) for name, form in RESULTS.items() if name in summary)
    seconds, tokens = summary["seconds/fit"], summary["real_tokens"] / 1e6
    title = f"test: {', '.join(found)}  ({seconds:.0f} s of training, {tokens:.1f} M real tokens)"
    figure.suptitle(title)
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
