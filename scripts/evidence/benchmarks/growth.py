"""Sub-commands startup and scale: what grows with the number of examples, and what doesn't."""

import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks import first_step, report
from benchmarks.contest import Contestant, Measured, Process, console, contest
from benchmarks.corpora import SPECIAL
from benchmarks.gate import Gate
from benchmarks.ours import everytoken
from benchmarks.plain import loop
from everytoken.batch import Batch
from everytoken.data.cache.store import ItemStore, write_items
from everytoken.data.cut import Topology
from everytoken.data.datamodule import Batching, MicroBatches
from everytoken.data.epoch import BatchBudget
from everytoken.data.objective import CausalLM, Item
from everytoken.data.sampler import GlobalBatches
from everytoken.model.transformer import Transformer
from everytoken.training.loss import target_sums

VOCABULARY = 1000
"""Of the made items of `scale`."""
GIB = 2**30


def startup(arguments: Namespace) -> int:
    """The default run on dates, with an empty cache and then with a full one."""
    counts = sorted({max(1, arguments.examples // part) for part in (100, 10, 1)})
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        for count in counts:
            for cache in ("empty", "full"):
                answer = _first_step(count, Path(place), arguments.threads)
                results.append({"examples": count, "cache": cache, **answer})
                console.print(f"  {count:,} examples, {cache} cache: {answer['seconds']:.1f} s")
        commands = first_step.first_step(arguments.rounds, arguments.threads, Path(place))
    columns = ("examples", "cache", "seconds to the end of the first step", "GiB", "GiB, not files")
    table = report.grid(*columns, markdown=arguments.markdown)
    for r in results:
        memory = (f"{r[key] / GIB:.2f}" for key in ("resident", "anonymous"))
        table.add_row(f"{r['examples']:,}", r["cache"], f"{r['seconds']:.1f}", *memory)
    report.show(table)
    console.print("seconds after imports; memory that is resident after the first step")
    table = report.grid("command", "seconds", "of the CPU", markdown=arguments.markdown)
    for name, seconds, of_cpu in first_step.medians(commands):
        table.add_row(name, f"{seconds:.2f}", f"{of_cpu:.2f}")
    report.show(table)
    if arguments.out is not None:
        _draw_startup(arguments.out, results)
    report.write(arguments, {"examples": results, "commands": commands})
    return 0


def _first_step(count: int, folder: Path, threads: int) -> dict[str, float]:
    overrides = [f"data.corpus.train_examples={count}", "data.corpus.test_examples=100"]
    task = {"overrides": overrides, "examples": count}
    one = Contestant("startup", "everytoken", "benchmarks.growth:one_step", task, 0.0)
    process = Process(one, threads, folder)
    try:
        return process.first
    finally:
        process.end()


def one_step(gate: Gate, overrides: list[str], examples: int) -> None:
    """A run up to the end of its first step; answers how long that took since imports."""
    started = time.perf_counter()

    class OneStep(Gate):
        def ready(self, parameters: int) -> None:
            self.left = 1

        def answer(self, *_: Any, **__: Any) -> None:
            seconds = time.perf_counter() - started
            memory = {key: resident(name) for key, name in MEMORY.items()}
            self._say({"parameters": 0, "seconds": seconds, **memory})
            self.wait()

    everytoken(OneStep(gate.commands, gate.answers), overrides, None, total_steps=1000)


MEMORY = {"resident": "VmRSS", "anonymous": "RssAnon"}


def resident(key: str) -> int:
    """Bytes of an entry of /proc/self/status; 0 where there is none."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith(f"{key}:")), 0)


def scale(arguments: Namespace) -> int:
    """Steps of a tiny model on stores of made items, all sizes in turn."""
    counts = sorted({max(200, arguments.examples // part) for part in (1000, 100, 10, 1)})
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for count in counts:
            started = time.perf_counter()
            write_items(folder / str(count), made_items(count))
            console.print(f"  {count:,} items written in {time.perf_counter() - started:.0f} s")
        contestants = [
            Contestant(
                f"{count:,} examples",
                "everytoken",
                "benchmarks.growth:steps",
                {"store": str(folder / str(count)), "total_steps": 1000},
                0.0,
            )
            for count in counts
        ]
        found = contest(
            contestants,
            rounds=arguments.rounds,
            steps=arguments.steps,
            warm_up=arguments.warm_up,
            threads=arguments.threads,
            folder=folder,
        )
    columns = ("examples", "ms/step", "lowest", "highest", "x fewest")
    table = report.grid(*columns, markdown=arguments.markdown)
    times = [_milliseconds(m, arguments.steps) for m in found]
    for m, each in zip(found, times, strict=True):
        numbers = [f"{x:.2f}" for x in (median(each), min(each), max(each))]
        ratio = f"{median(each) / median(times[0]):.2f}"
        table.add_row(m.contestant.name, *numbers, ratio)
    report.show(table)
    report.draw_rates(arguments.out, "scale", "Steps of a tiny model", {"any size": found})
    report.write(arguments, report.raw(found))
    return 0


def _milliseconds(measured: Measured, steps: int) -> list[float]:
    return [1000 * answer["seconds"] / steps for answer in measured.rounds]


def made_items(count: int) -> Iterator[tuple[Item, int]]:
    """Items of 5 to 30 random tokens, and what each counts."""
    rng = np.random.default_rng(1)
    for start in range(0, count, 10_000):
        size = min(10_000, count - start)
        ends = np.cumsum(rng.integers(5, 31, size))
        ids = rng.integers(len(SPECIAL), VOCABULARY, ends[-1], dtype=np.int32)
        for part in np.split(ids, ends[:-1]):
            yield Item(part), len(part) - 1


def steps(gate: Gate, store: str, total_steps: int) -> None:
    """A contestant: sampler, loader and a tiny model, on a store."""
    torch.manual_seed(1)
    budget = BatchBudget(None, 64)
    batching = Batching(budget, microbatch_tokens=16384, padding_side="right", pad_to_multiple_of=1)
    objective = CausalLM(SPECIAL, VOCABULARY, window_tokens=64, stride_tokens=64, long="windows")
    dataset = MicroBatches(ItemStore(Path(store)), objective, batching, SPECIAL.pad, seed=1)
    topology = Topology(1, 0, batching.microbatch_tokens)
    sampler = GlobalBatches(dataset.lengths, budget, topology, seed=1, epochs=None)
    loader: DataLoader = DataLoader(dataset, batch_size=None, sampler=sampler)
    net = Transformer(
        shape="decoder",
        vocabulary=VOCABULARY,
        layers=1,
        width=32,
        heads=2,
        key_value_heads=2,
        ffn_width=64,
        dropout=0.0,
        token_dropout=0.0,
        tie_embeddings=True,
        rope_base=10000.0,
        norm_eps=1e-6,
        window=None,
        attention="auto",
    )

    def loss_of(batches: list[Batch]) -> torch.Tensor:
        sums = [target_sums(net(b), net.head, b.targets).loss for b in batches]
        return torch.stack(sums).sum() / sum(b.target_count for b in batches)

    def counts(batches: list[Batch]) -> tuple[int, int]:
        return sum(b.real_count for b in batches), sum(b.unpadded_count for b in batches)

    print(f"resident: {resident('VmRSS'):,} bytes", file=sys.stderr)
    loop(gate, net, loader, loss_of, counts, bf16=False, lr=1e-3, total_steps=total_steps)


def _draw_startup(out: Path, results: list[dict[str, Any]]) -> None:
    plt = report.pyplot()
    out.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for cache, marker in (("empty", "s--"), ("full", "o-")):
        some = [r for r in results if r["cache"] == cache]
        counts = [r["examples"] for r in some]
        axes[0].plot(counts, [r["seconds"] for r in some], marker, label=f"{cache} cache")
        axes[1].plot(counts, [r["resident"] / GIB for r in some], marker, label=f"{cache} cache")
    axes[0].set_ylabel("seconds to the end of the first step")
    axes[1].set_ylabel("GiB resident then")
    for axis in axes:
        axis.set(xscale="log", xlabel="training examples", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(out / "startup.png", dpi=130)
    plt.close(figure)
