"""The sampler of a huge job without the job: corpora that are only lengths, ranks that are numbers.

    python scripts/evidence/simulate_ranks.py --examples 1000000 1000000000 --ranks 8 1024

For each corpus a file of lengths is written and mapped into memory, as a run does. Then one rank of
many deals out steps of --tokens. Printed is what it takes: seconds to the first step, of a new run
and of one that is resumed late in its sixth epoch; milliseconds for a step, its order included, and
to cut it alone; memory that isn't the file's; and how much more than the mean the busiest rank has
to do, attention's pairs included, in the worst step. Beside it, how much more one text alone is:
nobody can do better. Exit code 1 if the busiest has more than two per cent beyond both.
"""

import argparse
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everytoken.data.balance import Work, share_tokens, share_work
from everytoken.data.cut import Topology, cut_sized
from everytoken.data.epoch import BatchBudget, Marks
from everytoken.data.order import Shuffled
from everytoken.data.sampler import GlobalBatches

TILE = 1_000_000
"""Lengths that are drawn; a corpus repeats them."""

WORK = Work(even_tokens=12 * 2048)
"""Of a causal model of width 2048, about a billion weights."""

MICROBATCH_TOKENS = 32_768
RESUMED_EPOCH = 5
LIMIT = 1.02


class Found(NamedTuple):
    """What one rank of a simulated job takes."""

    start: float
    """Seconds to the first step of a new run."""
    resume: float
    """Seconds to the first step of one that is resumed."""
    step: float
    """Seconds of a processor for a step on average, its part of the order included."""
    cut: float
    """The same to cut a step alone, at best of all."""
    memory: int
    """Bytes at most, beside the file of lengths."""
    busiest: float
    """What the busiest rank has to do, of the mean; in the worst step."""
    longest: float
    """The same of the costliest text alone."""
    by_tokens: float
    """The same as `busiest`, had tokens been shared instead."""


def draw(texts: str, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(count,) lengths of texts of a kind."""
    drawn = {
        "sentences": lambda: rng.lognormal(3.38, 0.3, count),
        "documents": lambda: rng.lognormal(6, 1, count).clip(max=2047),
        "books": lambda: rng.lognormal(6.5, 1.3, count).clip(max=32_767),
    }[texts]()
    return drawn.astype(np.int64) + 1


def write_lengths(path: Path, texts: str, examples: int) -> NDArray[np.int64]:
    """(examples,) lengths in a file, mapped into memory."""
    tile = draw(texts, min(TILE, examples), np.random.default_rng(0))
    with path.open("wb") as file:
        for begin in range(0, examples, len(tile)):
            file.write(np.roll(tile, begin // 7)[: examples - begin].tobytes())
    return np.asarray(np.memmap(path, np.int64, "r"))


def simulate(lengths: NDArray[np.int64], tokens: int, ranks: int, steps: int) -> Found:
    """Deal out steps of so many tokens to the last of so many ranks."""
    topology = Topology(ranks, ranks - 1, MICROBATCH_TOKENS, WORK)

    def stream(first_step: int, marks: Marks) -> GlobalBatches:
        budget = BatchBudget(tokens, None)
        order = Shuffled(len(lengths))
        return GlobalBatches(lengths, budget, topology, 0, None, first_step, order, marks)

    marks, per_epoch = Marks(), 1 + int(lengths[:TILE].mean() * len(lengths) / tokens)
    late = per_epoch * 9 // 10
    begins = [per_epoch * epoch for epoch in range(RESUMED_EPOCH + 1)]
    first = begins[-1] + late
    marks.learn({"begins": begins, "mark": [first, RESUMED_EPOCH, len(lengths) * 9 // 10]})

    def deal() -> tuple[float, float, float]:
        """Seconds to start, to resume and of a step."""
        began = time.perf_counter()
        dealt = iter(stream(0, Marks()))
        next(dealt)
        start, worked = time.perf_counter() - began, time.process_time()
        made = len([*islice(dealt, steps)])
        step = (time.process_time() - worked) / made
        began = time.perf_counter()
        next(iter(stream(first, marks)))
        return start, time.perf_counter() - began, step

    start, resume, step = deal()
    tracemalloc.start()
    deal()  # once more, since looking at memory takes its time
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    seconds, busiest, longest, by_tokens = [], 0.0, 0.0, 0.0
    for batch in islice(stream(0, Marks()).epoch(0), steps):
        sizes = lengths[batch]
        began = time.process_time()
        cut_sized(batch, sizes, topology)
        seconds.append(time.process_time() - began)
        costs = WORK.of(sizes)
        mean = costs.sum() / ranks
        busiest = max(busiest, np.bincount(share_work(costs, ranks), costs).max() / mean)
        longest = max(longest, costs.max() / mean)
        by_tokens = max(by_tokens, share_tokens(sizes, ranks).most(costs) / mean)
    return Found(start, resume, step, min(seconds), memory, busiest, longest, by_tokens)


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate all that is asked for; 1 if a rank has too much to do."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--examples", type=int, nargs="+", default=[10**6, 10**8, 10**9])
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 1024])
    parser.add_argument("--texts", nargs="+", default=["sentences", "documents", "books"])
    parser.add_argument("--tokens", type=int, default=4_000_000, help="of a step")
    parser.add_argument("--steps", type=int, default=20, help="that are dealt out")
    given = parser.parse_args(arguments)
    columns = ["texts", "examples", "ranks", "start s", "resume s", "step ms", "cut ms", "MiB"]
    columns += ["busiest", "by tokens", "one text"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    uneven = False
    for texts in given.texts:
        for examples in given.examples:
            with tempfile.TemporaryDirectory() as folder:
                lengths = write_lengths(Path(folder) / "lengths.bin", texts, examples)
                for ranks in given.ranks:
                    found = simulate(lengths, given.tokens, ranks, given.steps)
                    uneven |= found.busiest > max(LIMIT, found.longest)
                    row = [texts, f"{examples:,}", str(ranks)]
                    row += [f"{found.start:.2f}", f"{found.resume:.2f}", f"{1e3 * found.step:.1f}"]
                    row += [f"{1e3 * found.cut:.1f}", f"{found.memory / 2**20:.0f}"]
                    row += [f"{x:.3f}" for x in (found.busiest, found.by_tokens, found.longest)]
                    print(f"| {' | '.join(row)} |", flush=True)
    return int(uneven)


if __name__ == "__main__":
    sys.exit(main())
