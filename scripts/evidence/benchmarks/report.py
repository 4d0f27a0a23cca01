"""Tables, JSON and pictures of what was measured, and the machine that it was measured on."""

import json
import os
import platform
from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.contest import Contestant, Measured, console
from everytoken.run.identity import git_commit

PACKAGES = ("torch", "lightning", "transformers", "accelerate")
COLORS = {
    "peak": "#999999",
    "plain": "#E69F00",
    "hugging face": "#CC3311",
    "everytoken": "#0072B2",
}


def machine(threads: int) -> dict[str, Any]:
    """What the numbers were measured with."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES if find_spec(name)},
        "git_commit": git_commit(),
    }


def grid(*columns: str, markdown: bool) -> Table:
    """An empty table."""
    return Table(*columns, box=box.MARKDOWN if markdown else box.SIMPLE_HEAD)


def rates_table(found: Sequence[Measured], *, markdown: bool) -> Table:
    """A line for each contestant; the peak is no contestant but what they are compared with."""
    peak = next((m for m in found if m.contestant.family == "peak"), None)
    trained = [m for m in found if m.contestant.family != "peak"]
    families = {m.contestant.family for m in trained}
    references = {
        family: max((m for m in trained if m.contestant.family == family), key=lambda m: m.rate)
        for family in ("hugging face", "plain")
        if family in families
    }
    columns = ["contestant", "weights", "MFLOP", "tokens/s", "spread"]
    columns += [f"x {'HF' if family == 'hugging face' else family}" for family in references]
    if peak:
        columns.append("of peak")
    columns += ["fill", "loss"]
    if any(answer["bytes"] for m in trained for answer in m.rounds):
        columns.append("GiB")
    table = grid(*columns, markdown=markdown)
    for m in trained:
        rates = m.rates()
        row = [m.contestant.name, f"{m.parameters / 1e6:.1f}M", f"{m.contestant.flops / 1e6:.1f}"]
        row += [f"{m.rate:,.0f}", f"{(max(rates) - min(rates)) / m.rate:.0%}"]
        row += [f"{m.ratio(best):.2f}" for best in references.values()]
        if peak:
            row.append(f"{m.ratio(peak) * m.contestant.flops:.1%}")
        first, last = m.losses
        row += [f"{m.fill:.2f}", f"{_number(first)}→{_number(last)}"]
        if "GiB" in columns:
            row.append(f"{max(answer['bytes'] for answer in m.rounds) / 2**30:.1f}")
        table.add_row(*row)
    return table


def show(table: Table) -> None:
    """Print, not squeezed where no terminal has a width."""
    width = None if console.is_terminal or "COLUMNS" in os.environ else 120
    Console(width=width, highlight=False, markup=False).print(table)


LEGEND = (
    "tokens/s: real tokens, median of rounds; spread: of them, highest less lowest by median; "
    "x: divided by the best of a family, and of peak: median of the rounds' own; "
    "MFLOP: per token; loss: first and last round"
)


def peak_line(found: Sequence[Measured]) -> str:
    """What the largest matrix products reach."""
    rates = [m.rates() for m in found if m.contestant.family == "peak"]
    if not rates:
        return ""
    peak = next(m for m in found if m.contestant.family == "peak").rate
    lowest, highest = min(rates[0]), max(rates[0])
    return f"matmul peak: {peak / 1e9:,.0f} GFLOP/s ({lowest / 1e9:,.0f} to {highest / 1e9:,.0f})"


def _number(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.2f}"


def raw(found: Sequence[Measured]) -> list[dict[str, Any]]:
    """Everything that was measured, for the JSON."""
    return [
        {
            "name": m.contestant.name,
            "family": m.contestant.family,
            "parameters": m.parameters,
            "flops_per_token": m.contestant.flops,
            "median_rate": m.rate,
            "rounds": m.rounds,
        }
        for m in found
    ]


def write(arguments: Namespace, results: Any) -> None:
    """SUBCOMMAND.json in the directory that was asked for, if one was."""
    out: Path | None = arguments.out
    if out is None:
        return
    settings = {k: v for k, v in vars(arguments).items() if k != "command"}
    report = {
        "command": arguments.command,
        "settings": settings,
        "machine": machine(arguments.threads),
        "results": results,
    }
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, default=str)
    (out / f"{arguments.command}.json").write_text(text + "\n", encoding="utf-8")
    console.print(f"{arguments.command}.json and {arguments.command}.png are in {out}")


def draw_rates(out: Path | None, name: str, title: str, panels: dict[str, list[Measured]]) -> None:
    """A bar for each contestant and a dot for each round; a panel for each precision."""
    if out is None:
        return
    plt = pyplot()
    out.mkdir(parents=True, exist_ok=True)
    height = 1.2 + 0.38 * max(len(found) for found in panels.values())
    figure, axes = plt.subplots(
        1, len(panels), figsize=(2.6 + 3.6 * len(panels), height), layout="constrained",
        squeeze=False, sharey=True,
    )  # fmt: skip
    for axis, (panel, found) in zip(axes.flat, panels.items(), strict=True):
        trained = [m for m in found if m.contestant.family != "peak"][::-1]
        for line, m in enumerate(trained):
            axis.barh(line, m.rate, color=COLORS[m.contestant.family], alpha=0.85)
            axis.plot(m.rates(), [line] * len(m.rounds), "k.", markersize=4)
        axis.set_yticks(range(len(trained)), [_label(m.contestant) for m in trained], fontsize=9)
        axis.set(title=panel, xlabel="real tokens per second")
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
    figure.suptitle(title, fontsize=11)
    figure.savefig(out / f"{name}.png", dpi=130)
    plt.close(figure)


def _label(contestant: Contestant) -> str:
    return contestant.name.replace(", ", ",\n", 1) if len(contestant.name) > 28 else contestant.name


def pyplot() -> Any:
    """matplotlib's, for files."""
    import matplotlib  # here: without --out it isn't needed

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt
