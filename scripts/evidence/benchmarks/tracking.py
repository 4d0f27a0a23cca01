"""What recording and showing a training costs: default callbacks and W&B offline, or neither."""

import tempfile
from argparse import Namespace
from pathlib import Path
from statistics import median

from benchmarks import report
from benchmarks.contest import Measured, console, contest
from benchmarks.speed import ours, precisions
from everytoken.errors import UserError

SIDES = {
    "off": ["logger=none", "callbacks=none"],
    "on": ["logger=wandb", "logger.wandb.mode=offline"],
}


def tracking(arguments: Namespace) -> int:
    """The default run (dates); both sides validate equally often."""
    if arguments.steps % arguments.every or arguments.warm_up <= arguments.every:
        raise UserError(
            f"--every {arguments.every} must divide --steps {arguments.steps} and be below "
            f"--warm-up {arguments.warm_up}: each round then has equally many validations"
        )
    found: dict[str, list[Measured]] = {}
    total = arguments.warm_up + arguments.rounds * arguments.steps
    for precision in precisions(arguments.precision):
        console.print(f"tracking, {precision}:")
        shared = [f"precision={precision}", f"trainer.val_check_interval={arguments.every}"]
        shared.append(f"data.corpus.train_examples={arguments.examples}")
        shared.append(f"data.corpus.val_examples={min(500, arguments.examples)}")
        contestants = [
            ours(name, [*shared, *side], None, total, 0.0, "validating")
            for name, side in SIDES.items()
        ]
        with tempfile.TemporaryDirectory() as folder:
            found[precision] = contest(
                contestants,
                rounds=arguments.rounds,
                steps=arguments.steps,
                warm_up=arguments.warm_up,
                threads=arguments.threads,
                folder=Path(folder),
            )
    table = report.grid("precision", "off, s", "on, s", "on / off", markdown=arguments.markdown)
    for precision, (off, on) in found.items():
        pairs = zip(off.rounds, on.rounds, strict=True)  # the same batches in the same order
        ratio = median(b["seconds"] / a["seconds"] for a, b in pairs)
        seconds = [f"{median(r['seconds'] for r in side.rounds):.2f}" for side in (off, on)]
        table.add_row(precision, *seconds, f"{ratio:.3f}")
    report.show(table)
    validations = arguments.steps // arguments.every
    console.print(f"rounds of {arguments.steps} steps and {validations} validations")
    report.draw_rates(arguments.out, "tracking", "Recording and showing a run, or not", found)
    report.write(arguments, {case: report.raw(pair) for case, pair in found.items()})
    return 0
