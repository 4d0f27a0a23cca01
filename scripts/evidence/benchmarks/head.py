"""Sub-command head: peak memory and time of output layer and loss, a fresh process each."""

import json
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import report
from benchmarks.contest import console, environment
from benchmarks.losses import CHECK, LOSSES
from benchmarks.speed import precisions
from everytoken.errors import UserError

GIB = 2**30


def head(arguments: Namespace) -> int:
    """Measure all losses in turn, in fresh processes."""
    sizes = [arguments.tokens, arguments.width, arguments.vocabulary]
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    for precision in precisions(arguments.precision):
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in LOSSES}
        for number in range(arguments.rounds):
            for place in range(len(LOSSES)):
                name = [*LOSSES][(place + number) % len(LOSSES)]
                if name != "everytoken target_sums" and not _fits(name, sizes, number == 0):
                    continue
                task = {"name": name, "sizes": sizes, "bf16": precision == "bf16"}
                runs[name].append(_measure(task, arguments.threads))
        results[precision] = {name: found for name, found in runs.items() if found}
        console.print(f"{sizes[0]:,} tokens, width {sizes[1]:,}, V {sizes[2]:,}, {precision}:")
        report.show(_table(results[precision], markdown=arguments.markdown))
    console.print("memory: most above what was there before; it includes the gradients")
    console.print(
        f"gradient error: largest distance from float64's gradient by its largest entry, {CHECK}"
    )
    _draw(arguments.out, results)
    report.write(arguments, results)
    return 0


def _fits(name: str, sizes: list[int], is_first: bool) -> bool:
    """Logits, their log-softmax, their gradient and copies: four times M x V floats at most."""
    tokens, _, vocabulary = sizes
    need = 4.5 * tokens * vocabulary * 4
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else _available()
    if "chunked" in name or "Liger" in name or need < free:
        return True
    if is_first:
        console.print(
            f"{name} is left out: it may need {need / GIB:.0f} GiB and {free / GIB:.0f} are free "
            "(lower --tokens or --vocabulary)"
        )
    return False


def _available() -> float:
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    return free[0] if free else float("inf")


def _measure(task: dict[str, Any], threads: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.losses", json.dumps(task)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command,
            env=environment(threads, Path(folder)),
            cwd=folder,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        tail = done.stderr[-2000:] or f"exit code {done.returncode} (out of memory?)"
        raise UserError(f"{task['name']}: {tail}")
    return json.loads(done.stdout.splitlines()[-1])


def _table(results: dict[str, list[dict[str, float]]], *, markdown: bool) -> Any:
    columns = ("loss", "peak memory, GiB", "seconds", "d hidden error", "d weight error")
    table = report.grid(*columns, markdown=markdown)
    for name, runs in results.items():
        middle = {key: median(run[key] for run in runs) for key in runs[0]}
        errors = (f"{middle[key]:.1e}" for key in ("hidden_error", "weight_error"))
        table.add_row(name, f"{middle['bytes'] / GIB:.2f}", f"{middle['seconds']:.2f}", *errors)
    return table


def _draw(out: Path | None, results: dict[str, dict[str, list[dict[str, float]]]]) -> None:
    if out is None:
        return
    plt = report.pyplot()
    out.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(
        len(results), 2, figsize=(9, 0.8 + 1.8 * len(results)), layout="constrained", squeeze=False
    )
    for line, (precision, found) in zip(axes, results.items(), strict=True):
        for axis, key, unit in zip(line, ("bytes", "seconds"), (GIB, 1), strict=True):
            values = [median(run[key] for run in runs) / unit for runs in found.values()]
            axis.barh([*found][::-1], values[::-1], color="#0072B2")
            axis.set_xlabel(f"{'peak memory, GiB' if key == 'bytes' else 'seconds'} ({precision})")
        line[1].set_yticklabels([])
    figure.savefig(out / "head.png", dpi=130)
