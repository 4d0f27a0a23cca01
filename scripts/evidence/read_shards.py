"""python scripts/evidence/read_shards.py: what it costs to train on shards that lie elsewhere.

Made-up texts are tokenized and prepared in shards, which a server of this machine gives, each
request after --latency seconds. Then steps are read from the disk, and from shards: all fit, or few
do, and blocks are shuffled, or all examples. Each step is followed by a pause, as if a device
trained meanwhile. What is read is compared with what the disk gives. Printed are the time of a step
beside that from the disk, bytes fetched for a step, the most that was kept, and how long a resumed
run waits for its first step if nothing is kept.

With --kills a run on these shards is killed so often with SIGKILL and resumed, and has to end with
the weights of one that read them from the disk and was let alone. Exit code 1 if anything differs.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from multiprocessing import Process, Queue
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from big_corpus import sentences
from everytoken.batch import Batch
from everytoken.commands.build import build_data
from everytoken.commands.prepare import prepare
from everytoken.config.check import checked
from everytoken.config.values import check_training
from everytoken.corpora.prepared import Prepared
from everytoken.data.datamodule import TokenDataModule
from everytoken.runtime.console import console, set_level

BATCH = 8192
TASK = ("task=causal_lm", "seed=1", f"data.batch_tokens={BATCH}")
TOGETHER = 4
"""Shards that are shuffled together."""


class Handler(BaseHTTPRequestHandler):
    """Gives files, and parts of them."""

    protocol_version = "HTTP/1.1"
    folder = Path()
    latency = 0.0

    def do_HEAD(self) -> None:  # noqa: D102
        self._answer()

    def do_GET(self) -> None:  # noqa: D102
        self._answer()

    def _answer(self) -> None:
        time.sleep(self.latency)
        file = self.folder / self.path[1:]
        if not file.is_file():
            self.send_error(404)
            return
        content, begin = file.read_bytes(), 0
        size = end = len(content)
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            begin, end = int(asked[1]), min(size, int(asked[2] or size) + 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[begin:end])

    def log_message(self, *args: Any) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    """Whose clients may be killed."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing."""


def serve(folder: Path, latency: float, port: "Queue[int]") -> None:
    """Give the files of a folder until this process ends."""
    Handler.folder, Handler.latency = folder, latency
    server = Server(("127.0.0.1", 0), Handler)
    port.put(server.server_port)
    server.serve_forever()


@contextmanager
def serving(folder: Path, latency: float) -> Iterator[str]:
    """The address of a folder."""
    port: Queue[int] = Queue()
    process = Process(target=serve, args=(folder, latency, port), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port.get()}"
    finally:
        process.terminate()


def of_disk(folder: Path) -> tuple[str, ...]:
    """Overrides for the texts as they are."""
    texts = (f"data.path={folder / 'texts.txt'}", f"data.cache_dir={folder / 'cache'}")
    return ("data=text", *texts, "tokenizer=byte")


def of_shards(folder: Path, url: str, gigabytes: float) -> tuple[str, ...]:
    """Overrides for what was prepared of them."""
    kept = (f"data.cache_dir={folder / 'kept'}", f"data.cache_gigabytes={gigabytes}")
    return ("data=prepared", f"data.path={url}/shards", *kept)


def data_of(*overrides: str) -> TokenDataModule:
    """The training data of a run."""
    return build_data(checked("train", [*TASK, *overrides], check_training), ("train",))


def read(
    data: TokenDataModule, steps: int, pause: float, first: int = 0
) -> Iterator[tuple[list[Batch], float, int]]:
    """Micro-batches of steps, seconds that each took, and bytes that are kept then."""
    data.first_step = first
    began = time.perf_counter()
    for step in islice(data.train_dataloader(), steps):
        time.sleep(pause)
        yield step, time.perf_counter() - began, kept(data)
        began = time.perf_counter()


def kept(data: TokenDataModule) -> int:
    """Bytes of shards, what is being fetched included."""
    if not isinstance(data.source, Prepared):
        return 0
    files = (p for p in data.source.shelf.root.glob("*/train/*") if p.suffix != ".lock")
    return sum(path.stat().st_size for path in files if path.exists())


def is_same(one: list[Batch], other: list[Batch]) -> bool:
    """Whether micro-batches are the same bit for bit."""
    pairs = zip(one, other, strict=True)
    return all(
        torch.equal(a.input_ids, b.input_ids) and torch.equal(a.labels, b.labels) for a, b in pairs
    )


def measure(folder: Path, arguments: argparse.Namespace) -> int:
    """Print the figures; how many steps differ from those of the disk."""
    prepare(str(folder / "shards"), [*TASK, *of_disk(folder)], arguments.shard_megabytes)
    train = Prepared(str(folder / "shards"), None, 0).splits["train"]
    size, largest = sum(f.size for f in train.shards), max(f.size for f in train.shards)
    table = Table("read", "a step", "of disk's", "fetched a step", "most kept", "first, resumed")
    shards = f"{len(train.shards)} shards of {largest / 1e6:.2f} MB, {size / 1e6:.1f} MB in all"
    table.title = f"{shards}; steps of {BATCH:,} tokens"
    blocks = (f"data.shuffle_blocks=[{train.shard_examples},{TOGETHER}]",)
    few = (2 * TOGETHER + 1) * largest
    with serving(folder, arguments.latency) as url:
        different = compare(table, folder, url, arguments, "all fit", (), 2 * size)
        different += compare(table, folder, url, arguments, "few fit, in blocks", blocks, few)
        arguments.steps = max(4, arguments.steps // 20)  # enough of that
        different += compare(table, folder, url, arguments, "few fit, plain order", (), few)
    console.print(table)
    return different


def compare(
    table: Table,
    folder: Path,
    url: str,
    arguments: argparse.Namespace,
    name: str,
    order: tuple[str, ...],
    room: int,
) -> int:
    """Read from the disk and from shards, of which `room` bytes are kept; two rows of the table."""
    local = data_of(*of_disk(folder), *order)
    steps, pause = arguments.steps, arguments.pause
    times = [seconds for _, seconds, _ in read(local, steps, pause)]
    table.add_row(f"disk, {name}", f"{1000 * sum(times) / len(times):.1f} ms", "1.00", "", "", "")
    own = of_shards(folder, url, room / 1e9)
    shutil.rmtree(folder / "kept", ignore_errors=True)
    found = data_of(*own, *order)
    others = (step for step, *_ in read(local, steps, 0))
    most, different, spent = 0, 0, list[float]()
    for step, seconds, now in read(found, steps, pause):
        different += not is_same(step, next(others))
        most, spent = max(most, now), [*spent, seconds]
    assert isinstance(found.source, Prepared)
    shutil.rmtree(folder / "kept")
    began = time.perf_counter()
    next(read(data_of(*own, *order), 1, 0, first=len(spent) // 2))
    resumed = time.perf_counter() - began
    table.add_row(
        f"shards, {name}",
        f"{1000 * sum(spent) / len(spent):.1f} ms",
        f"{sum(times) / sum(spent):.2f}",
        f"{found.source.shelf.fetched / len(spent) / 1e3:.0f} kB",
        f"{most / 1e6:.1f} of {room / 1e6:.1f} MB",
        f"{resumed:.1f} s",
    )
    return different + (most > room)


def killed(folder: Path, kills: int) -> int:
    """How many tensors of a run differ that was killed so often, from one that was let alone."""
    small = (
        *(*TASK, "logger=none", "trainer=cpu", "model.width=32", "model.layers=1"),
        *("trainer.max_steps=60", "trainer.val_check_interval=20"),
        *("callbacks.last_checkpoint.every_n_steps=5", "callbacks.machine_use=null"),
    )
    run(small, of_disk(folder), folder / "alone").wait()
    with serving(folder, 0.02) as url:
        shards = of_shards(folder, url, 0.005)
        process, resumed = run(small, shards, folder / "killed"), 0
        for _ in range(kills):
            before = state(folder / "killed")
            while process.poll() is None and state(folder / "killed") == before:
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            shutil.rmtree(folder / "kept", ignore_errors=True)
            resumed += 1
            process = run((f"resume={folder / 'killed'}",), (), None)
        process.wait()
    ends = [torch.load(folder / n / "checkpoints" / "last.ckpt", weights_only=False) for n in RUNS]
    one, other = (end["state_dict"] for end in ends)
    different = sum(not torch.equal(one[name], other[name]) for name in one)
    console.print(
        f"killed {resumed} times at a saved step: {different} of {len(one)} tensors differ"
    )
    return different


RUNS = ("alone", "killed")


def state(folder: Path) -> float:
    """When a run has saved last."""
    file = folder / "checkpoints" / "last.ckpt"
    return file.stat().st_mtime if file.exists() else 0


def run(
    words: tuple[str, ...], data: tuple[str, ...], folder: Path | None
) -> "subprocess.Popen[bytes]":
    """A run that begins, or goes on."""
    place = [] if folder is None else [f"hydra.run.dir={folder}"]
    command = [sys.executable, "-m", "train", *words, *data, *place]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--megabytes", type=float, default=8, help="of text")
    parser.add_argument("--shard-megabytes", type=float, default=0.25, help="of a shard")
    parser.add_argument("--steps", type=int, default=300, help="that are read")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds after each")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds of each request")
    parser.add_argument("--kills", type=int, default=0, help="of a run")
    parser.add_argument("--folder", type=Path, help="where files are written; a temporary one else")
    arguments = parser.parse_args()
    set_level("warning")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        with (folder / "texts.txt").open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in sentences(arguments.megabytes, 30))
        different = measure(folder, arguments)
        if arguments.kills:
            different += killed(folder, arguments.kills)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
