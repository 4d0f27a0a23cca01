"""What Lightning, Hydra, logging and metrics cost: the whole training against a bare loop."""

import tempfile
from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.contest import Measured, console, contest
from benchmarks.speed import ours, precisions

MODELS = ("tiny", "small")


def overhead(arguments: Namespace) -> int:
    """The default run (dates) with two sizes of model: short steps and longer ones."""
    found: dict[str, list[Measured]] = {}
    total = arguments.warm_up + arguments.rounds * arguments.steps
    for precision in precisions(arguments.precision):
        for model in MODELS:
            case = f"model={model} {precision}"
            console.print(f"overhead, {case}:")
            overrides = [f"model={model}", f"precision={precision}"]
            overrides.append(f"data.corpus.train_examples={arguments.examples}")
            contestants = [
                ours(name, overrides, None, total, 0.0, job)
                for name, job in (("bare loop", "bare"), ("everytoken", "everytoken"))
            ]
            with tempfile.TemporaryDirectory() as folder:
                found[case] = contest(
                    contestants,
                    rounds=arguments.rounds,
                    steps=arguments.steps,
                    warm_up=arguments.warm_up,
                    threads=arguments.threads,
                    folder=Path(folder),
                )
    columns = ("run", "bare, ms/step", "everytoken, ms/step", "overhead", "loss of both")
    table = report.grid(*columns, markdown=arguments.markdown)
    for case, (loop, whole) in found.items():
        table.add_row(case, *_row(loop, whole, arguments.steps))
    report.show(table)
    console.print(f"the default run's data, {arguments.rounds} rounds of {arguments.steps} steps")
    report.draw_rates(arguments.out, "overhead", "The default run against a bare loop", found)
    report.write(arguments, {case: report.raw(pair) for case, pair in found.items()})
    return 0


def _row(loop: Measured, whole: Measured, steps: int) -> list[str]:
    # Both make the same batches in the same order, so a round's times can be compared.
    ratios = [w["seconds"] / b["seconds"] for b, w in zip(loop.rounds, whole.rounds, strict=True)]
    milliseconds = [1000 * median(r["seconds"] for r in m.rounds) / steps for m in (loop, whole)]
    losses: list[Any] = [m.losses[1] for m in (loop, whole)]
    numbers = [f"{ms:.1f}" for ms in milliseconds] + [f"{median(ratios) - 1:+.1%}"]
    return [*numbers, ", ".join("–" if loss is None else f"{loss:.3f}" for loss in losses)]
