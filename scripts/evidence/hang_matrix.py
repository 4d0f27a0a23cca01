"""One rank of several is killed, stopped or cut off, at each moment of a run: who notices, when?

    python scripts/evidence/hang_matrix.py --out FILE    # again: what isn't in the file yet

Two ranks, whom `trainer=ddp_cpu` starts or torchrun on two machines (namespaces, as root), or three
with --ranks 3. One of them gets SIGKILL, SIGSTOP or loses its network: as its Python starts, while
the ranks meet, as they agree on a run, while data is prepared, in a step, a validation, a save, the
test. Prints for each the seconds until somebody said so and until all was over, the exit code and
the words. Exit code 1 if it took longer than trainer.hang_timeout and what it takes to end, if the
words don't name the rank, or if the exit code isn't one that is documented.
"""

import argparse
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from machines import Machines, can_be_made

HANG_SECONDS = 20
MEET_SECONDS = 120
"""How long ranks wait for others to start; see everytoken.runtime.rendezvous."""
START_SECONDS = 60
"""That others may take until they wait, if one is struck first."""
TOLD_SECONDS = 15
"""More, until it is told: who is missed is asked first, and two cores are slow."""
END_SECONDS = 150
"""More, until all has ended: ranks do what they are at, tidy up, and who doesn't is killed."""
BEGIN_SECONDS = 240

MOMENTS = ("start", "rendezvous", "claim", "prepare", "step", "validation", "save", "test")
TO_MEET = ("start", "rendezvous")
SETTINGS = [
    *("logger=none", "callbacks.report=null", "callbacks.machine_use=null", "data.num_workers=0"),
    *("model.width=16", "model.heads=2", "model.ffn_width=16", "model.layers=1"),
    *("data.corpus.train_examples=200", "data.corpus.val_examples=60", "data.batch_size=16"),
    *("data.corpus.test_examples=60", "data.microbatch_tokens=200", "trainer.max_steps=12"),
    *("trainer.val_check_interval=6", f"trainer.hang_timeout={HANG_SECONDS}"),
]
MACHINES = Machines("hangbr", {"hang1": "10.78.0.1", "hang2": "10.78.0.2", "hang3": "10.78.0.3"})
FOLDER = Path(__file__).parent / "hang"
DOCUMENTED = {1, 2, 137}
_REASON = re.compile(r"error: .*")


class Cell(NamedTuple):
    """One of the matrix."""

    way: str
    """Who starts the ranks: launch or torchrun."""
    ranks: int
    moment: str
    how: str
    rank: int


class Found(NamedTuple):
    """What became of it."""

    told: float | None
    """Seconds until somebody said why, from the moment on."""
    ended: float | None
    """Until all had ended, under torchrun all others: on the machine of a process that is stopped
    torchrun waits for it. None if that had to be forced."""
    code: int | None
    words: list[str]


def cells(ways: Sequence[str], ranks: int) -> Iterator[Cell]:
    """All of them."""
    for way, moment, rank in itertools.product(ways, MOMENTS, range(ranks)):
        for how in ("kill", "stop", "cut") if way == "torchrun" else ("kill", "stop"):
            if way == "torchrun" or moment != "claim":  # where ranks agree on nothing
                yield Cell(way, ranks, moment, how, rank)


@contextmanager
def started(cell: Cell, folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """The processes that a user would have started; at the end none is left."""
    path = os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("PYTHONPATH")]))
    mark = {"HANG": f"{cell.moment}:{cell.how}:{cell.rank}", "HANG_MARK": str(folder / "mark")}
    env = {**os.environ, **mark, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    job = ["-m", "train", *SETTINGS, "trainer=ddp_cpu", f"hydra.run.dir={folder / 'run'}"]
    if cell.way == "torchrun":
        names = [*MACHINES.addresses][: cell.ranks]
        address = MACHINES.addresses[names[0]]
        launch = [f"--nnodes={cell.ranks}", "--nproc-per-node=1", "--rdzv-backend=c10d"]
        launch += [f"--rdzv-endpoint={address}:29478", "--rdzv-id=hang"]
        with MACHINES:
            words = [*launch, *job]
            yield [MACHINES.torchrun(name, words, folder / f"{name}.log", env) for name in names]
        return
    with (folder / "launch.log").open("w") as log:
        command = [sys.executable, *job, f"trainer.devices={cell.ranks}"]
        launcher = subprocess.Popen(command, env=env, stdout=log, stderr=log, text=True)
    try:
        yield [launcher]
    finally:
        launcher.kill()
        launcher.wait()
        if (folder / "mark").exists():
            with suppress(ProcessLookupError):
                os.kill(struck(folder)[0], signal.SIGKILL)


def struck(folder: Path) -> tuple[int, float]:
    """Which process, and when."""
    pid, when = (folder / "mark").read_text().split()
    return int(pid), float(when)


def said(folder: Path) -> list[str]:
    """Why it ended, as the ranks say."""
    texts = (log.read_text(errors="replace") for log in sorted(folder.glob("*.log")))
    return [line for text in texts for line in _REASON.findall(text)]


def walk(cell: Cell, folder: Path) -> Found:
    """Let it happen."""
    with started(cell, folder) as processes:
        begun = time.monotonic()
        while not ((folder / "mark").exists() and (folder / "mark").read_text()):
            if time.monotonic() - begun > BEGIN_SECONDS or processes[0].poll() is not None:
                raise SystemExit(f"{cell} didn't come that far: see {folder}")
            time.sleep(0.05)
        when, told = struck(folder)[1], None
        while (now := time.monotonic() - when) < limit(cell) + END_SECONDS:
            if told is None and said(folder):
                told = now
            others = [p for rank, p in enumerate(processes) if rank != cell.rank] or processes
            if all(process.poll() is not None for process in others):
                code = others[0].returncode
                return Found(told, now, code if code >= 0 else 128 - code, said(folder))
            time.sleep(0.1)
        return Found(told, None, None, said(folder))


def limit(cell: Cell) -> float:
    """Seconds within which somebody must have said why."""
    waits = MEET_SECONDS + START_SECONDS if cell.moment in TO_MEET else HANG_SECONDS
    return waits + TOLD_SECONDS


def fault(cell: Cell, found: Found) -> str:
    """What is wrong with it; "" for nothing."""
    if found.ended is None:
        return "hangs"
    if found.told is None or found.told > limit(cell):
        return "told too late" if found.told else "nobody says why"
    if found.code not in DOCUMENTED:
        return f"exit code {found.code}"
    if not any(re.search(rf"\brank {cell.rank}\b", line) for line in found.words):
        return "the rank isn't named"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="file of what was found, a line a cell")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--only", default="", help="words that a cell has, as step,stop")
    args = parser.parse_args(arguments)
    base = Path(tempfile.mkdtemp(prefix="hang-"))
    out = args.out or base / "found.jsonl"
    before = out.read_text().splitlines() if out.exists() else []
    done = {Cell(*row["cell"]): Found(*row["found"]) for row in map(json.loads, before)}
    ways = ["launch", *["torchrun"] * can_be_made()]
    wanted = set(filter(None, args.only.split(",")))
    chosen = [c for c in cells(ways, args.ranks) if wanted <= set(map(str, c))]
    print(f"{'who, moment, how, rank':36} told ended code")
    for number, cell in enumerate(chosen):
        if cell not in done:
            folder = base / str(number)
            folder.mkdir()
            done[cell] = walk(cell, folder)
            with out.open("a") as file:
                file.write(json.dumps({"cell": cell, "found": done[cell]}) + "\n")
        found = done[cell]
        seconds = [f"{s:5.1f}" if s is not None else "    -" for s in (found.told, found.ended)]
        name = " ".join(map(str, cell))
        print(f"{name:36} {' '.join(seconds)} {found.code}  {fault(cell, found)}", flush=True)
        print(*(f"    {line}" for line in found.words), sep="\n", flush=True)
    faults = sum(bool(fault(cell, done[cell])) for cell in chosen)
    print(f"{len(chosen)} cells, {faults} at fault")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
