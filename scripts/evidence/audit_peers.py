"""python scripts/evidence/audit_peers.py OUT_DIR: the audit of others' training code, and of ours.

transformers' Trainer, TRL's SFTTrainer, plain Lightning and everytoken, of tiny random sizes, each
as its documentation writes it (peers.py). Prints a matrix of check x peer; writes audit-peers.json
and audit-peers.png. Each red cell has a script under red/ that shows it without this project.
"""

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compare_topologies import machine
from everytoken.audit import Report, audit
from everytoken.audit.foreign.entrance import CHECKS
from everytoken.runtime.console import console
from peers import PEERS

RED = Path(__file__).parent / "red"

MEAN_OF_MEANS = "Trainer, T5|Trainer, Marian|Trainer, BERT"
LEFT = "padding length|padding content|step|loss|accumulation|label smoothing"
SHOWN: dict[str, tuple[str, str]] = {
    "trainer_left": ("left", f"{LEFT}|two processes|logged loss"),
    "trainer_processes": (MEAN_OF_MEANS, "two processes|evaluation on processes"),
    "trainer_accumulation": (MEAN_OF_MEANS, "accumulation|logged loss"),
    "trainer_evaluation": ("Trainer", "evaluation|evaluation on processes"),
    "trainer_loss": ("GPT-2", "loss|label smoothing"),
    "trainer_eos": ("eos pads", "end of sequence"),
    "lightning_processes": ("Lightning", "two processes|evaluation on processes"),
    "lightning_accumulation": ("Lightning", "accumulation|logged loss"),
    "lightning_evaluation": ("Lightning", "evaluation"),
    "lightning_resume": ("Lightning", "resume"),
}
"""Scripts under red/: of which peers (parts of names) and checks each shows a red cell."""

LAUNCHED = ("trainer_processes", "lightning_processes")
"""Those that say another thing if torchrun starts them."""


def shows(peer: str, check: str) -> str | None:
    """The script that shows a red cell without our code; the most particular one."""
    found = [
        script
        for script, (peers, checks) in SHOWN.items()
        if any(name in peer for name in peers.split("|")) and check in checks.split("|")
    ]
    return found[0] if found else None


def command(script: str) -> str:
    """What shows a red cell."""
    file = f"scripts/evidence/red/{script}.py"
    if script in LAUNCHED:
        return f"python {file}; torchrun --nproc_per_node 2 {file}"
    return f"python {file}"


def record(reports: dict[str, Report]) -> dict[str, Any]:
    """What is written: of each peer each check's verdict, difference and note."""
    packages = ("torch", "lightning", "transformers", "accelerate", "trl")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine() | {name: version(name) for name in packages},
        "peers": {
            peer: {
                "seconds": round(report.seconds, 1),
                "checks": {
                    result.check.name: {
                        "verdict": verdict(result),
                        "difference": float(f"{result.finding.difference:.3g}"),
                        "note": result.finding.note,
                        "script": None if result.passed else shows(peer, result.check.name),
                    }
                    for result in report.results
                },
            }
            for peer, report in reports.items()
        },
    }


def verdict(result: Any) -> str:
    """In a word."""
    if not result.finding.applies:
        return "n/a"
    return "pass" if result.passed else "FAILS"


def matrix(found: dict[str, Any]) -> str:
    """As text: a line for each check, a column for each peer."""
    peers = [*found["peers"]]
    lines = [f"{number + 1:3} {peer}" for number, peer in enumerate(peers)]
    lines += ["", " " * 24 + "".join(f"{number + 1:4}" for number in range(len(peers)))]
    signs = {"pass": "+", "FAILS": "X", "n/a": "."}
    for check in (check.name for check in CHECKS):
        cells = [
            found["peers"][peer]["checks"].get(check, {}).get("verdict", "n/a") for peer in peers
        ]
        lines.append(f"{check:24}" + "".join(f"{signs[cell]:>4}" for cell in cells))
    return "\n".join([*lines, "", "+ pass, X fails, . doesn't apply"])


def draw(found: dict[str, Any], file: Path) -> None:
    """The matrix as a picture."""
    import matplotlib  # only here: the audit needs none

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    peers, checks = [*found["peers"]], [check.name for check in CHECKS]
    colors = {"pass": "#d7ecd9", "FAILS": "#d1495b", "n/a": "#f2f2f2"}
    figure, axes = plt.subplots(figsize=(10.5, 7.6), layout="constrained")
    for x, peer in enumerate(peers):
        for y, check in enumerate(checks):
            cell = found["peers"][peer]["checks"][check]
            color = colors[cell["verdict"]]
            axes.add_patch(Rectangle((x, y), 0.94, 0.9, color=color))
            if cell["verdict"] == "FAILS":
                off = cell["difference"]
                text = f"{off:.0f}" if off >= 0.95 else f"{off:.0e}".replace("e-0", "e-")
                axes.text(x + 0.47, y + 0.47, text, ha="center", va="center", color="w", size=8)
    axes.set(xlim=(0, len(peers)), ylim=(len(checks), 0))
    axes.set_xticks([x + 0.47 for x in range(len(peers))], peers, rotation=40, ha="left", size=9)
    axes.set_yticks([y + 0.45 for y in range(len(checks))], checks, size=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    names = ("torch", "lightning", "transformers", "trl")
    versions = ", ".join(f"{name} {found['machine'][name]}" for name in names)
    axes.set_xlabel(
        "green: passes, grey: doesn't apply, red: fails, by the relative difference\n"
        f"{versions}; {found['date']}",
        size=9,
    )
    figure.savefig(file, dpi=130)


def main() -> int:
    """Audit what was asked for; the exit code."""
    parser = argparse.ArgumentParser(description="Does every token count once, at others?")
    parser.add_argument("out", type=Path, help="directory for audit-peers.json and .png")
    names = [make.__name__ for make in PEERS.values()]
    parser.add_argument("--peers", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    reports: dict[str, Report] = {}
    for peer, make in PEERS.items():
        if make.__name__ in arguments.peers:
            reports[peer] = audit(make())
            console.print(f"{peer}: {reports[peer].seconds:.0f} s")
    found = record(reports)
    (arguments.out / "audit-peers.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    draw(found, arguments.out / "audit-peers.png")
    console.print(matrix(found))
    for peer, report in reports.items():
        for check in report.failures:
            if script := shows(peer, check):
                console.print(f"{peer}, {check}: {command(script)}")
            else:
                console.print(f"{peer}, {check}: nothing shows it yet")
    return 0


if __name__ == "__main__":
    sys.exit(main())
