"""Sub-command cache: tokenized examples on disk, in files of our own and in those of `datasets`.

Each store is built, opened and read at random (as a shuffled epoch is) in processes of its own, in
turn, so that each begins with nothing of it in memory; then it is damaged.
"""

import os
import shutil
import tempfile
import time
import zlib
from argparse import Namespace
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.contest import console
from benchmarks.growth import made_items, resident
from everytoken.data.cache.folder import check, writing
from everytoken.data.cache.store import ItemStore, write_items
from everytoken.data.objective import Item

READS, READS_OF_A_STEP, DAMAGED = 20_000, 64, 20_000
FIGURES = ("import s", "import MiB", "build s", "open s", "read MiB", "read µs")
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "flipped": lambda b: b[: len(b) // 2] + bytes([b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1 :],
    "cut": lambda b: b[: len(b) // 2],
    "zeros": lambda b: b[: len(b) // 2].ljust(len(b), b"\0"),
    "cut in use": lambda b: b,
}
"""Of the largest file. Zeros are what a power cut may leave of one that wasn't synced."""

Items = list[tuple[Item, int]]
Opened = tuple[Callable[[list[int]], list[NDArray[Any]]], NDArray[np.int64]]
"""What reads the ids of examples, to be the reader's own, and the real tokens of each example."""


def _open_ours(folder: Path) -> Opened:
    store = ItemStore(folder)
    return lambda indices: [store[i].ids for i in indices], store.lengths


def _dataset(folder: Path, items: Items | None = None) -> Any:
    """A `datasets.Dataset`, found on disk or made of items."""
    import datasets

    def rows() -> Iterator[dict[str, Any]]:
        assert items is not None, "what was built isn't found"
        yield from ({"ids": item.ids, "length": length} for item, length in items)

    ids, length = datasets.List(datasets.Value("int32")), datasets.Value("int64")
    features = datasets.Features(ids=ids, length=length)
    return datasets.Dataset.from_generator(
        rows, features=features, cache_dir=str(folder), fingerprint="made"
    )


def _open_datasets(folder: Path) -> Opened:
    """As the documentation of `datasets` says."""
    dataset = _dataset(folder)
    rows = dataset.with_format("numpy", columns=["ids"])
    return lambda indices: [*rows[indices]["ids"]], dataset.data["length"].to_numpy()


def _build_checksummed(folder: Path, items: Items) -> None:
    with writing(folder) as new:
        for file in _dataset(new / "made", items).cache_files:
            shutil.move(file["filename"], new)
        shutil.rmtree(new / "made")


def _open_checksummed(folder: Path) -> Opened:
    """As safe and as fast as these files can be."""
    import datasets

    check(folder)
    parts = [datasets.Dataset.from_file(str(file)) for file in sorted(folder.glob("*.arrow"))]
    table = datasets.concatenate_datasets(parts).data
    ids, lengths = table["ids"], table["length"].to_numpy()
    return lambda indices: [ids[i].values.to_numpy().copy() for i in indices], lengths


STORES = {
    "everytoken": (write_items, _open_ours),
    "datasets": (_dataset, _open_datasets),
    "datasets+": (_build_checksummed, _open_checksummed),
}
"""What builds each, and what opens it."""


def cache(arguments: Namespace) -> int:
    """Build, open, read and damage each store, in turn."""
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # pyarrow's, too
    rounds: dict[str, list[dict[str, float]]] = {store: [] for store in STORES}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "store"
        for number in range(arguments.rounds):
            for turn in range(len(STORES)):
                store = [*STORES][(turn + number) % len(STORES)]
                built, used = (_apart(f, store, folder, arguments.examples) for f in (build, use))
                rounds[store].append(built | used)
                shutil.rmtree(folder)
            console.print(f"  round {number + 1} of {arguments.rounds}")
        damages = {store: _damaged(store, folder) for store in STORES}
    table = report.grid("store", *FIGURES, *DAMAGES, markdown=arguments.markdown)
    for store, found in rounds.items():
        middle = (f"{median(one[key] for one in found):.2f}" for key in FIGURES)
        table.add_row(store, *middle, *damages[store].values())
    report.show(table)
    console.print(
        f"{arguments.examples:,} examples, medians of {arguments.rounds} rounds; datasets+: in a "
        "checksummed folder, read by pyarrow; build: of examples in memory; open: until all "
        f"lengths are summed; read: memory by {READS:,} examples, CPU time of one; last columns: "
        "what opening and reading a damaged one comes to"
    )
    report.write(arguments, {"rounds": rounds, "damages": damages})
    return 0


def build(store: str, folder: Path, count: int) -> dict[str, float]:
    """What it takes to import what a store needs, and to build it."""
    items, before, started = list(made_items(count)), resident("VmRSS"), time.perf_counter()
    _import(store)
    imported, mib = time.perf_counter(), (resident("VmRSS") - before) / 2**20
    STORES[store][0](folder, items)
    seconds = time.perf_counter() - imported
    return {"import s": imported - started, "import MiB": mib, "build s": seconds}


def use(store: str, folder: Path, count: int) -> dict[str, float]:
    """What it takes to open a store, and to read an example of a step."""
    _import(store)
    steps = np.random.default_rng(2).integers(0, count, (READS // READS_OF_A_STEP, READS_OF_A_STEP))
    before, started = resident("VmRSS"), time.perf_counter()
    read, lengths = STORES[store][1](folder)
    lengths.sum()
    seconds, cpu_started = time.perf_counter() - started, time.process_time()
    for step in steps.tolist():
        read(step)
    each = 1e6 * (time.process_time() - cpu_started) / steps.size
    grown = (resident("VmRSS") - before) / 2**20
    return {"open s": seconds, "read MiB": grown, "read µs": each}


def _import(store: str) -> None:
    if store != "everytoken":
        import datasets

        datasets.disable_progress_bars()


def _damaged(store: str, folder: Path) -> dict[str, str]:
    """What comes of each kind of damage."""
    _import(store)
    _apart(build, store, folder, DAMAGED)
    right = _apart(_checksum, store, folder)
    file = max((path for path in folder.rglob("*") if path.is_file()), key=os.path.getsize)
    whole, found = file.read_bytes(), {}
    for name, damage in DAMAGES.items():
        file.write_bytes(damage(whole))
        answer = _apart(_checksum, store, folder, file if name == "cut in use" else None)
        found[name] = "NOT FOUND" if isinstance(answer, int) and answer != right else str(answer)
    shutil.rmtree(folder)
    return found


def _checksum(store: str, folder: Path, cut: Path | None = None) -> int | str:
    """Of all that is read; "found" if it can't be. A file to cut is cut once all is open."""
    try:
        read, lengths = STORES[store][1](folder)
        if cut is not None:
            os.truncate(cut, cut.stat().st_size // 2)
        indices = [*range(len(lengths))]
        parts = [part for i in indices[::1000] for part in read(indices[i : i + 1000])]
        return zlib.crc32(np.concatenate([*parts, lengths]).tobytes())
    except Exception:
        return "found"


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own; "killed" if a signal ends that."""
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(function(*arguments)))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        if (process.exitcode or 0) >= 0:
            raise RuntimeError(f"{function.__name__}{arguments} failed, see above") from None
        return "killed"
