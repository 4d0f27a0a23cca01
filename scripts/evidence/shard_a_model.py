"""python scripts/evidence/shard_a_model.py: what a rank of FSDP holds, and what its saves cost.

Two CPU ranks train a Transformer of 150 MB. Printed are the peaks of memory as the model is built,
in a step and in a save, over what a rank's share of it takes; how long a step is held up by a save
that waits and by one that doesn't; whether what was saved is the same, to the bit, once 1, 2 and 3
ranks have taken it up; and what is left of the checkpoints of ranks that are killed as they save.
Exit code 1 if a checkpoint is lost or changed.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning as L
import numpy as np
import torch
from rich.table import Table
from torch.utils.data import DataLoader

from everytoken.commands.build import quiet_lightning
from everytoken.commands.strategies import Sharding
from everytoken.commands.strategy import environment
from everytoken.data.collate import Example, collate
from everytoken.decoding.sampling import Greedy
from everytoken.model.transformer import Transformer
from everytoken.run.checkpoint_file import CheckpointFiles, read
from everytoken.run.newest_checkpoint import newest_good
from everytoken.runtime.console import console
from everytoken.runtime.world import world
from everytoken.tokenizer.special import SpecialIds
from everytoken.training.deferred import built
from everytoken.training.module import TokenModule
from everytoken.training.schedule import constant

RANKS = 2
COPIES = 4
"""Of each weight, in a step: itself, its gradient and the two moments of AdamW."""
SAVE_EVERY, STEPS = 6, 21
MB = 1e6

GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072"}
"""For glibc, which keeps what is freed in blocks of less than 32 MB: it would be counted, too."""


def make_module(width: int, layers: int) -> TokenModule:
    """A module whose model has no memory yet."""

    def make() -> Transformer:
        return Transformer(
            shape="decoder",
            vocabulary=1000,
            layers=layers,
            width=width,
            heads=8,
            key_value_heads=8,
            ffn_width=3 * width,
            tie_embeddings=True,
            rope_base=100.0,
            norm_eps=1e-6,
        )

    torch.manual_seed(1)
    model, deferred = built(make)
    module = TokenModule(
        model=model,
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-4),
        scheduler=lambda optimizer, total_steps: constant(optimizer, total_steps, 0.0),
        total_steps=10_000,
        special=SpecialIds(0, 1, 2, 3, 4),
        decode=str,
        decoding=Greedy(),
    )
    module.deferred = deferred
    return module


class Watch(L.Callback):
    """Peaks of memory above what there was, and seconds, by phase; saves now and then."""

    def __init__(self, path: Path | None, report: bool = False) -> None:
        self.path = path
        self.report = report
        self.kind = "step"
        self.before = peak(reset=True)
        self.peaks: dict[str, list[int]] = {}
        self.seconds: dict[str, list[float]] = {}
        self.waited: list[float] = []
        """Seconds in which a step did nothing but wait for a save."""
        self.sizes: tuple[int, int] = (0, 0)
        self.began = 0.0

    def end(self, name: str) -> None:
        """Note the peak since the last one."""
        self.peaks.setdefault(name, []).append(peak(reset=True) - self.before)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The model is sharded."""
        self.end("start")
        assert isinstance(pl_module, TokenModule)
        model = pl_module.model
        assert isinstance(model, Transformer)
        assert model.decoder is not None
        parts = [*model.decoder.blocks, model.embedding]
        block = max(sum(p.numel() for p in part.parameters()) for part in parts)
        self.sizes = (4 * sum(p.numel() for p in model.parameters()), 4 * block)

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Save, if it is time."""
        self.end("between")
        step = trainer.global_step
        self.began = time.perf_counter()
        if self.path is None or step % SAVE_EVERY or not step:
            self.kind = "step"
            return
        self.kind = "step with a save"
        trainer.save_checkpoint(self.path)
        self.waited.append(time.perf_counter() - self.began)
        self.end("save")
        if saving := CheckpointFiles.of(trainer).saving:
            saving.wait_until_staged = partial(self._wait, saving.wait_until_staged)
        if self.report and trainer.is_global_zero:
            print(step, flush=True)

    def _wait(self, wait: Callable[[], None]) -> None:
        began = time.perf_counter()
        wait()
        self.waited[-1] += time.perf_counter() - began

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Note how long the step took."""
        saving = CheckpointFiles.of(trainer).saving
        is_beside = self.kind == "step" and saving is not None and not saving.written.done()
        kind = "step beside a save" if is_beside else self.kind
        self.seconds.setdefault(kind, []).append(time.perf_counter() - self.began)
        self.end(kind)


def train(folder: str, width: int, layers: int, steps: int, kind: str, out: str = "") -> None:
    """The job of each rank: train, save in a way, and write what was measured.

    Args:
        folder: of the checkpoint, and of what was measured.
        width, layers: of the model.
        steps: of the run; 0 for no end.
        kind: how it saves: "none", "file", "blocking" or "async".
        out: if it is given, only take up the checkpoint, and save it there again.
    """
    quiet_lightning()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    path = Path(folder) / "last.ckpt"
    here = world()
    rank = here.rank if here else 0
    (Path(folder) / f"pid-{rank}").write_text(str(os.getpid()))
    strategy: Any = "auto"
    if here is not None:
        strategy = Sharding(
            here.size,
            timedelta(seconds=300),
            in_shards=kind != "file",
            in_background=kind == "async",
        )
        strategy.cluster_environment = environment()
    ids = np.arange(5, 13)
    batch = [collate([Example(ids, ids, None)], pad_id=0, padding_side="right")]
    watch = Watch(None if kind == "none" else path, report=not steps)
    module = make_module(width, layers)
    if here is None:
        assert module.deferred is not None
        module.deferred.fill(module.model, module.model)
    resumed = path if path.exists() else None
    if out:
        steps = torch.load(path, weights_only=True, mmap=True)["global_step"]
    trainer = L.Trainer(
        accelerator="cpu",
        devices=here.size if here else 1,
        strategy=strategy,
        max_steps=steps or 1_000_000,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        plugins=[CheckpointFiles()],
        callbacks=[watch],
        use_distributed_sampler=False,
    )
    batches: Any = [batch] * (steps or 1_000_000)
    loader = DataLoader(batches, batch_size=None)
    trainer.fit(module, loader, ckpt_path=resumed, weights_only=True)
    if out:
        trainer.save_checkpoint(out)
    CheckpointFiles.of(trainer).wait()
    found = {
        "peaks": watch.peaks,
        "seconds": watch.seconds,
        "sizes": watch.sizes,
        "waited": watch.waited,
    }
    (Path(folder) / f"{kind}-{rank}.json").write_text(json.dumps(found))


def peak(*, reset: bool) -> int:
    """Most bytes of this process's own since the last time; not of files."""
    [line] = [s for s in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in s]
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(line.split()[1]) * 1024


def ranks(count: int, **arguments: Any) -> None:
    """Run the job on so many ranks, and wait for them."""
    assert started(count, arguments).wait() == 0


def started(count: int, arguments: dict[str, Any]) -> subprocess.Popen[str]:
    """The process that minds so many ranks."""
    job = f"'shard_a_model:train', {arguments}, {count}"
    code = f"from everytoken.runtime.launch import launch; launch({job})"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), **GIVEN_BACK}
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def measure(folder: Path, width: int, layers: int) -> None:
    """Print peaks of memory and what saves cost."""
    table = Table(
        "rank of 2", "share, MB", "start", "step", "save", "held up, s", "of blocking", "slower, s"
    )
    held = {}
    for kind in ("file", "blocking", "async"):
        (folder / kind).mkdir()
        ranks(RANKS, folder=str(folder / kind), width=width, layers=layers, steps=STEPS, kind=kind)
        found = [json.loads((folder / kind / f"{kind}-{r}.json").read_text()) for r in range(RANKS)]
        for rank, one in enumerate(found):
            (weights, block), peaks = one["sizes"], one["peaks"]
            saving = "step with a save" if kind == "async" else "save"
            usual = np.median(one["seconds"]["step"])
            held[kind, rank] = max(one["waited"])
            slower = np.median(one["seconds"]["step with a save"]) - usual
            share = weights / RANKS
            over = {
                phase: f"{(max(peaks[phase]) - block) / share / copies:.2f}"
                for phase, copies in (("start", 1), ("step", COPIES), (saving, COPIES))
            }

            table.add_row(
                f"{kind} {rank}",
                f"{share * COPIES / MB:.0f}",
                *over.values(),
                f"{held[kind, rank]:.3f}",
                f"{held[kind, rank] / held['blocking', rank]:.1%}" if kind == "async" else "",
                f"{slower:.3f}",
            )
    console.print(table)
    console.print("memory without one block, over the share of the rank; a step: of 4 copies, and")
    console.print("beside it, in the background, a copy of 3 that is written")


def take_up(folder: Path, width: int, layers: int) -> bool:
    """Whether a checkpoint stays what it is, whoever takes it up and saves it again."""
    same = True
    for kind in ("async", "file"):
        right = read(folder / kind / "last.ckpt")
        for count in (1, 3) if kind == "async" else (2,):
            out = folder / f"{kind}-on-{count}.ckpt"
            again = "file" if kind == "async" else "blocking"
            ranks(
                count,
                folder=str(folder / kind),
                width=width,
                layers=layers,
                steps=0,
                kind=again,
                out=str(out),
            )
            is_same = differing(right, read(out)) is None
            console.print(
                f"{kind} of 2 ranks, on {count} and saved again: {is_same and 'same bits'}"
            )
            same &= is_same
    return same


def differing(one: Any, other: Any, place: str = "") -> str | None:
    """Where two checkpoints differ in weights, optimizer or schedule; None if nowhere."""
    if isinstance(one, dict):
        keys = one.keys() if place else ("state_dict", "optimizer_states", "lr_schedulers")
        return next(filter(None, (differing(one[k], other[k], f"{place}/{k}") for k in keys)), None)
    if isinstance(one, list):
        pairs = enumerate(zip(one, other, strict=True))
        return next(filter(None, (differing(a, b, f"{place}/{i}") for i, (a, b) in pairs)), None)
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return None if same else place


def kill(folder: Path, width: int, layers: int, times: int) -> int:
    """How many kills, each while shards are written, leave no checkpoint of the save before."""
    lost, draw, step = 0, random.Random(1), 0
    folder.mkdir()
    settings = {
        "folder": str(folder),
        "width": width,
        "layers": layers,
        "steps": 0,
        "kind": "async",
    }
    for _ in range(times):
        process = started(RANKS, settings)
        assert process.stdout is not None
        begun = [int(process.stdout.readline()) for _ in range(draw.randint(2, 3))]
        time.sleep(draw.random() * 0.3)
        for pid in [*(int(file.read_text()) for file in folder.glob("pid-*")), process.pid]:
            os.kill(pid, signal.SIGKILL)
        process.wait()
        found = newest_good(folder)
        before, step = step, 0 if found is None else read(found)["global_step"]
        lost += step < max(before, begun[-2])
    return lost


def main(arguments: list[str] | None = None) -> int:
    """Measure, compare and kill."""
    parser = argparse.ArgumentParser(
        description="Measures what a rank of FSDP holds, and what its saves cost."
    )
    parser.add_argument("--width", type=int, default=512, help="of the model, a multiple of 16")
    parser.add_argument("--layers", type=int, default=11)
    parser.add_argument("--kills", type=int, default=5)
    words = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder, size = Path(name), {"width": words.width, "layers": words.layers}
        measure(folder, **size)
        same = take_up(folder, **size)
        lost = kill(folder / "killed", **size, times=words.kills)
    console.print(f"{words.kills} kills while shards were being written: {lost} lost checkpoints")
    return 0 if same and not lost else 1


if __name__ == "__main__":
    sys.exit(main())
