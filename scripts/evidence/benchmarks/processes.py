"""Sub-command processes: two processes of one thread against one, by real runs of train."""

import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks import report
from benchmarks.contest import console, environment
from benchmarks.corpora import translations
from benchmarks.speed import model_overrides
from everytoken.errors import UserError

TRAINERS = {"1 process": "cpu", "2 processes": "ddp_cpu"}
YAML = {
    "data/ids.yaml": "kind: ids\ncorpus:\n  _target_: benchmarks.corpora.Ids\n  path: {path}\n",
    "tokenizer/ids.yaml": "_target_: benchmarks.corpora.train_ids\nvocabulary: {vocabulary}\n",
}
"""Groups that let `python -m train` read a corpus of ids."""


def processes(arguments: Namespace) -> int:
    """Alternate runs with both trainers, and compare the throughput in their summaries."""
    if (os.cpu_count() or 1) < 2:
        raise UserError("this needs two cores")
    corpus = translations(arguments.data, arguments.vocabulary)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in TRAINERS}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        path = folder / "corpus.pkl"
        replace(corpus, val=corpus.val[:32]).save(path)
        for name, text in YAML.items():
            file = folder / "conf" / name
            file.parent.mkdir(parents=True)
            content = text.format(path=path, vocabulary=corpus.vocabulary)
            file.write_text(content, encoding="utf-8")
        for number in range(arguments.rounds):
            for name in [*TRAINERS][:: 1 if number % 2 == 0 else -1]:
                summary = _train(folder, f"{TRAINERS[name]}-{number}", TRAINERS[name], arguments)
                runs[name].append(summary)
                rate = summary["throughput/real_tokens_per_second"]
                console.print(f"  {name}: {rate:,.0f} real tokens/s")
    rates = {
        name: [s["throughput/real_tokens_per_second"] for s in found]
        for name, found in runs.items()
    }
    one, two = (median(found) for found in rates.values())
    table = report.grid(
        "run", "tokens/s", "lowest", "highest", "x 1 process", markdown=arguments.markdown
    )
    for name, found in rates.items():
        numbers = (f"{x:,.0f}" for x in (median(found), min(found), max(found)))
        table.add_row(name, *numbers, f"{median(found) / one:.2f}")
    report.show(table)
    console.print(f"2 processes train {two / one:.2f} times as fast as 1, one thread each")
    _draw(arguments.out, rates)
    report.write(arguments, runs)
    return 0


def _train(folder: Path, name: str, trainer: str, arguments: Namespace) -> dict[str, float]:
    """summary.json of a run."""
    run = folder / name
    overrides = [
        f"hydra.run.dir={run}",
        "task=seq2seq",
        "task.max_new_tokens=null",
        "data=ids",
        "tokenizer=ids",
        f"trainer={trainer}",
        f"trainer.max_steps={arguments.steps}",
        f"trainer.val_check_interval={arguments.steps}",
        f"precision={arguments.precision}",
        f"data.batch_size={arguments.batch_size}",
        f"optimizer.lr={arguments.lr}",
        "label_smoothing=0.1",
        "logger=none",
        "callbacks=none",
        *model_overrides(arguments, arguments.ffn_width, 0.1),
    ]
    command = [sys.executable, "-m", "train", "--config-dir", str(folder / "conf"), *overrides]
    done = subprocess.run(
        command, env=environment(1, folder), cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"python -m train {' '.join(overrides)}: {done.stderr[-2000:]}")
    return json.loads((run / "summary.json").read_text())


def _draw(out: Path | None, rates: dict[str, list[float]]) -> None:
    if out is None:
        return
    plt = report.pyplot()
    out.mkdir(parents=True, exist_ok=True)
    figure, axis = plt.subplots(figsize=(6, 1.8), layout="constrained")
    for line, found in enumerate(rates.values()):
        axis.barh(line, median(found), color="#0072B2", alpha=0.85)
        axis.plot(found, [line] * len(found), "k.", markersize=4)
    axis.set_yticks(range(len(rates)), [*rates])
    axis.set_xlabel("real tokens per second, one thread for each process")
    figure.savefig(out / "processes.png", dpi=130)
