"""A job of torchrun loses a machine again and again, takes it back, and ends as if it hadn't.

    python scripts/evidence/lose_a_machine.py --kills 20 --out DIR    # again: goes on in DIR

As root, on Linux: two machines are two network namespaces on a bridge, and one dies when all its
processes are killed. torchrun (--nnodes=1:2) goes on with the rest and groups anew when the machine
is back. The same run is made by one process that nobody disturbs. In float64 and with a low
learning rate, so that what differs isn't rounding, which grows from step to step where learning is
chaotic: in float32 soon, in float64 with a learning rate of 2e-3 after a thousand steps. Prints
how long the others took to go on, and the largest differences of the two runs; exit code 1 if a
step has other examples or another loss, or if there is more than one run.
"""

import argparse
import csv
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from machines import Machines

SETTINGS = [
    *("logger=none", "trainer=ddp_cpu", "precision=fp64", "trainer.log_every_n_steps=1"),
    *("model.width=32", "model.heads=2", "model.ffn_width=32", "model.layers=1", "model.dropout=0"),
    "optimizer.lr=1e-4",
    *("data.corpus.train_examples=2000", "data.corpus.val_examples=20", "data.batch_size=16"),
    *("data.corpus.test_examples=20", "callbacks.machine_use=null", "trainer.hang_timeout=60"),
    *("callbacks.last_checkpoint.every_n_steps=10", "data.num_workers=0"),
]
MACHINES = Machines("lostbr", {"machine1": "10.77.0.1", "machine2": "10.77.0.2"})
LAUNCH = [
    *("--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=1000", "--rdzv-id=lost"),
    *("--rdzv-backend=c10d", f"--rdzv-endpoint={MACHINES.addresses['machine1']}:29471"),
    "--rdzv-conf=last_call_timeout=5",  # seconds that those who are there wait for others
]
PATIENCE_SECONDS = 240
LOSS_LIMIT = 1e-6
"""Of a loss, which is logged in float32."""
WEIGHT_LIMIT = 1e-10


def start(name: str, run: Path, steps: int) -> subprocess.Popen[str]:
    """torchrun on a machine; what it prints is added to a file beside the run."""
    job = ["-m", "train", *SETTINGS, *lengths(steps), f"hydra.run.dir={run}", "resume=auto"]
    return MACHINES.torchrun(name, [*LAUNCH, *job], printed(run, name))


def lengths(steps: int) -> list[str]:
    """Overrides."""
    return [f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps}"]


def printed(run: Path, name: str) -> Path:
    """What a machine has printed."""
    return run.with_name(f"{run.name}-{name}.log")


def beginnings(run: Path) -> int:
    """How often ranks have begun or gone on, as they say just before their first step."""
    log = printed(run, "machine1")
    text = log.read_text(errors="replace") if log.exists() else ""
    return text.count("continuing ") + text.count("lengths of train")


def rows(run: Path) -> dict[int, dict[str, str]]:
    """What each step logged, by step."""
    with (run / "metrics.csv").open() as file:
        found = [row for row in csv.DictReader(file) if row["train/loss"]]
    return {int(row["step"]): row for row in found}


def weights(run: Path) -> dict[str, torch.Tensor]:
    """At the end."""
    file = run / "checkpoints" / "last.ckpt"
    return torch.load(file, weights_only=True, map_location="cpu")["state_dict"]


def wait(run: Path, begun: int, first: subprocess.Popen[str]) -> float | None:
    """Seconds until ranks have begun once more and made a step; None if the job has ended."""
    started, steps = time.monotonic(), 0
    while time.monotonic() - started < PATIENCE_SECONDS:
        if first.poll() is not None:
            return None
        if beginnings(run) > begun:
            with suppress(OSError):
                now = len((run / "metrics.csv").read_text().splitlines())
                if steps and now > steps:
                    return time.monotonic() - started
                steps = steps or now or 1
        time.sleep(0.1)
    raise SystemExit(f"nothing went on for {PATIENCE_SECONDS} s: see {printed(run, 'machine1')}")


def lose(run: Path, steps: int, kills: int) -> tuple[list[float], int]:
    """Make the run; seconds that the others took to go on, and the job's exit code."""
    file = run.with_name("took.json")
    took: list[float] = json.loads(file.read_text()) if file.exists() else []
    begun = beginnings(run)
    first = start("machine1", run, steps)
    second = start("machine2", run, steps)
    wait(run, begun, first)
    while len(took) < kills and first.poll() is None:
        time.sleep(random.uniform(0, 8))
        begun = beginnings(run)
        MACHINES.die("machine2")
        second.wait()
        alone = wait(run, begun, first)
        if alone is None:
            break
        took.append(alone)
        file.write_text(json.dumps(took))
        print(f"lost machine 2, went on after {alone:.0f} s", flush=True)
        time.sleep(random.uniform(0, 5))
        begun = beginnings(run)
        second = start("machine2", run, steps)
        back = wait(run, begun, first)
        if back is not None:
            print(f"machine 2 was back and at work after {back:.0f} s", flush=True)
    return took, first.wait()


def compare(undisturbed: Path, lost: Path) -> dict[str, float]:
    """The largest differences: of losses, of counts of real tokens, of weights at the end."""
    right, found = rows(undisturbed), rows(lost)
    losses = [
        abs(float(found[s]["train/loss"]) / float(row["train/loss"]) - 1) if s in found else 1.0
        for s, row in right.items()
    ]
    counts = [s for s, row in right.items() if _examples(found.get(s)) != _examples(row)]
    ours, theirs = weights(undisturbed), weights(lost)
    gaps = [float((ours[n] - theirs[n]).abs().max() / ours[n].abs().max()) for n in ours]
    return {"loss": max(losses), "steps with other examples": len(counts), "weights": max(gaps)}


def _examples(row: dict[str, str] | None) -> str | None:
    return row["real_tokens"] if row else None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=0, help="300 for each kill unless given")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder to keep the runs in")
    args = parser.parse_args(arguments)
    random.seed(args.seed)
    out = args.out or Path(tempfile.mkdtemp(prefix="lost-"))
    out.mkdir(parents=True, exist_ok=True)
    steps = args.steps or 300 * args.kills
    with MACHINES:
        took, code = lose(out / "lost", steps, args.kills)
    alone = ["-m", "train", *SETTINGS, *lengths(steps), "trainer.devices=1", "resume=auto"]
    command = [sys.executable, *alone, f"hydra.run.dir={out / 'undisturbed'}"]
    with (out / "undisturbed.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    found = compare(out / "undisturbed", out / "lost")
    runs = len([*out.glob("*/run.json")]) - 1
    found |= {"kills": len(took), "exit code": code, "runs": runs, "steps": steps}
    found |= {"seconds to go on, median": statistics.median(took), "at most": max(took)}
    print(json.dumps(found, indent=2))
    same = found["loss"] <= LOSS_LIMIT and not found["steps with other examples"]
    return int(not (same and found["weights"] <= WEIGHT_LIMIT and code == 0 and runs == 1))


if __name__ == "__main__":
    sys.exit(main())
