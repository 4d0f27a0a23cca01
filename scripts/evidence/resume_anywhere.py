"""A checkpoint of any strategy and number of ranks, taken up by any other: where does it end?

    python scripts/evidence/resume_anywhere.py OUT    # again: what isn't in OUT yet

A run is made up to its middle by one process, DDP and FSDP, which writes one file or shards, and is
then continued by each of them on one to three ranks. In float64; with averages of the weights, and
with an adapter. Prints for each pair the largest difference of all weights at the end from those of
one process that was never interrupted; exit code 1 if one is above 1e-10 or a run failed.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

MIDDLE, END = 4, 8
SETTINGS = [
    *("logger=none", "precision=fp64", "scheduler=constant", "callbacks.machine_use=null"),
    *("model.width=32", "model.heads=2", "model.ffn_width=32", "model.layers=2", "model.dropout=0"),
    *("data.corpus.train_examples=200", "data.corpus.val_examples=20", "data.batch_size=16"),
    *("data.corpus.test_examples=20", "data.num_workers=0", "callbacks.report=null"),
    *(f"trainer.val_check_interval={MIDDLE}", "trainer.log_every_n_steps=1"),
    "task.max_new_tokens=null",
]
WAYS = {
    "alone": ["trainer=cpu"],
    "ddp 2": ["trainer=ddp_cpu"],
    "ddp 3": ["trainer=ddp_cpu", "trainer.devices=3"],
    "fsdp 2, one file": ["trainer=fsdp_cpu", "trainer.sharded_checkpoints=false"],
    "fsdp 2, shards": ["trainer=fsdp_cpu", "trainer.sharded_checkpoints=true"],
    "fsdp 3, shards": [
        *("trainer=fsdp_cpu", "trainer.devices=3", "trainer.sharded_checkpoints=true"),
    ],
    "fsdp 2 x 2, shards": [
        *("trainer=fsdp_cpu", "trainer.devices=4", "trainer.tensor_parallel=2"),
        "trainer.sharded_checkpoints=true",
    ],
}
BEFORE = [way for way in WAYS if "3" not in way]
LIMIT = 1e-10


def train(*words: str) -> None:
    """Call it.

    Raises:
        SystemExit: it failed.
    """
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "train", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


def whole(run: Path) -> dict[str, torch.Tensor]:
    """All weights at the end, of which each way makes one file at last."""
    file = run / "checkpoints" / "last.ckpt"
    return torch.load(file, weights_only=True, map_location="cpu")["state_dict"]


def begun(out: Path, name: str, words: Sequence[str], steps: int) -> Path:
    """A run of so many steps, unless it is there."""
    run = out / name.replace(", ", "-").replace(" ", "-")
    if not (run / "summary.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        train(*SETTINGS, *words, f"trainer.max_steps={steps}", f"hydra.run.dir={run}")
    return run


def continued(out: Path, before: Path, after: str, words: Sequence[str]) -> Path:
    """The same run, taken up by another way; unless that was done."""
    run = out / f"{before.name}-to-{after.replace(', ', '-').replace(' ', '-')}"
    done = run.with_suffix(".done")
    if not done.exists():
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(before, run)
        ends = ["trainer.sharded_checkpoints=false"] if "fsdp" in after else []  # to be compared
        own = [word for word in WAYS[after] if "sharded" not in word]
        plain = {"trainer.devices": 1 + ("2" in after), "trainer.tensor_parallel": 1}
        typed = {word.partition("=")[0] for word in own}
        own += [f"{key}={value}" for key, value in plain.items() if key not in typed]
        train(f"resume={run}", *own, *ends, *words, f"trainer.max_steps={END}")
        done.touch()
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for the runs")
    parser.add_argument("--kinds", default="plain,ema,adapter")
    args = parser.parse_args(arguments)
    out = args.out.absolute()
    faults = 0
    for kind in args.kinds.split(","):
        words = {"plain": [], "ema": ["callbacks=ema"], "adapter": ["adapter=lora"]}[kind]
        if kind == "adapter":
            words += [f"init_from={begun(out, 'base', WAYS['alone'], MIDDLE)}"]
        reference = whole(begun(out, f"{kind} {END}", [*WAYS["alone"], *words], END))
        for before, after in itertools.product(BEFORE, WAYS):
            if kind == "adapter" and " x " in before + after:  # which is refused
                continue
            run = begun(out, f"{kind} {before}", [*WAYS[before], *words], MIDDLE)
            found = whole(continued(out, run, after, []))
            odd = reference.keys() ^ found.keys()
            gaps = [float((found[n] - reference[n]).abs().max()) for n in reference if not odd]
            wrong = bool(odd) or max(gaps) > LIMIT
            faults += wrong
            print(f"{kind}: {before} -> {after}: {max(gaps, default=1.0):.1e}", flush=True)
    print(f"{faults} at fault")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
