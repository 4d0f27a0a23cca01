"""python scripts/evidence/kill_while_saving.py: kills a training while it saves.

A process trains and saves in every step; it is killed (SIGKILL) at a random moment after the file
being written has appeared, until enough kills have hit that file. What is left must always hold a
checkpoint that reads and is no older than the last save that was reported as done; the next process
goes on from there. Exit code 1 if not.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads don't survive a fork

import hydra
import lightning as L
import numpy as np
import torch
from omegaconf import OmegaConf
from rich.table import Table
from torch.utils.data import DataLoader

from everytoken.commands.build import quiet_lightning
from everytoken.config.keys import conf_dir
from everytoken.data.collate import Example, collate
from everytoken.decoding.sampling import Greedy
from everytoken.errors import UserError
from everytoken.model.transformer import Transformer
from everytoken.run.checkpoint_file import CheckpointFiles, read
from everytoken.run.newest_checkpoint import newest_good
from everytoken.runtime.console import console
from everytoken.runtime.files import UNFINISHED
from everytoken.tokenizer.special import SpecialIds
from everytoken.training.module import TokenModule
from everytoken.training.schedule import constant

VOCABULARY, WIDTH = 40_000, 64
"""Nearly all weights are embeddings: steps are short, and checkpoints of 31 MB take long."""
STEPS = 1_000_000
TRIES = 20
"""At most, for each kill that hits."""


class Reporting(CheckpointFiles):
    """Writes as any run does, and then reports which step is saved.

    Args:
        report: a pipe.
    """

    def __init__(self, report: int) -> None:
        super().__init__()
        self.report = report

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Save and report."""
        super().save_checkpoint(checkpoint, path, storage_options)
        if not self.failures:
            os.write(self.report, f"{checkpoint['global_step']}\n".encode())


def train(folder: Path, report: int) -> None:
    """Train and save, from the newest good checkpoint on, until killed."""
    quiet_lightning()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ids = np.arange(5, 10)
    step = [collate([Example(ids, ids, None)], pad_id=0, padding_side="right")]
    model = Transformer(
        shape="decoder",
        vocabulary=VOCABULARY,
        layers=1,
        width=WIDTH,
        heads=2,
        key_value_heads=2,
        ffn_width=WIDTH,
        dropout=0.0,
        token_dropout=0.0,
        tie_embeddings=True,
        rope_base=100.0,
        norm_eps=1e-6,
        window=None,
        attention="auto",
    )
    module = TokenModule(
        model=model,
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-4),
        scheduler=lambda optimizer, total_steps: constant(optimizer, total_steps, 0.0),
        total_steps=STEPS,
        seed=1,
        label_smoothing=0.0,
        z_loss=0.0,
        clip_norm=None,
        special=SpecialIds(0, 1, 2, 3, 4),
        decode=str,
        max_new_tokens=None,
        decoding=Greedy(),
        more_metrics={},
    )
    callbacks = OmegaConf.load(conf_dir() / "callbacks" / "default.yaml")
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[hydra.utils.instantiate(callbacks.last_checkpoint, every_n_steps=1)],
        plugins=[Reporting(report)],
    )
    steps: Any = [step] * STEPS
    start = newest_good(folder / "checkpoints")
    trainer.fit(module, DataLoader(steps, batch_size=None), ckpt_path=start, weights_only=True)


@dataclass
class Kill:
    """What one kill left.

    Attributes:
        reported: the newest step that was saved for certain.
        found: the step of the newest good checkpoint; None if there is none.
        written: bytes of the unfinished file; None if there was none.
        lost: why the run is lost; "" if it isn't.
    """

    reported: int
    found: int | None
    written: int | None
    lost: str


def hits(kills: list[Kill]) -> int:
    """How many came while a file was being written, and not just after."""
    return sum(kill.written is not None for kill in kills)


def kill_once(folder: Path, reported: int, seconds: float, rng: random.Random) -> Kill:
    """Start a training, kill it in one of its saves, look what is left.

    Args:
        folder: of the run.
        reported: the newest step that was saved for certain, by processes before.
        seconds: longest time between the appearance of the unfinished file and the kill.
        rng: draws the moment.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            train(folder, writing)
        except BaseException:
            traceback.print_exc()
        os._exit(1)  # it never ends by itself
    os.close(writing)
    with os.fdopen(reading) as reports:
        for _ in range(rng.randint(1, 3)):
            if not (line := reports.readline()):
                raise RuntimeError("the training ended by itself, before it was killed")
            reported = int(line)
        while not unfinished(folder):
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        reported = max([reported, *map(int, reports)])
    sizes = unfinished(folder)
    found, lost = None, "no good checkpoint"
    try:
        if path := newest_good(folder / "checkpoints"):
            found = read(path)["global_step"]
            lost = "" if found >= reported else "an older checkpoint"
    except UserError as error:
        lost = str(error)
    return Kill(reported, found, max(sizes, default=None), lost)


def unfinished(folder: Path) -> list[int]:
    """Bytes of the files that are being written."""
    sizes = []
    for path in (folder / "checkpoints").glob(f"*{UNFINISHED}"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue  # it has its name by now
    return sizes


def main() -> int:
    """Kill, look, print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50, help="that hit an unfinished file")
    parser.add_argument("--seconds", type=float, default=0.1, help="longest wait into a save")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary one")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    table = Table("kill", "last reported step", "newest good step", "unfinished file", "lost")
    kills: list[Kill] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        while hits(kills) < arguments.kills and len(kills) < TRIES * arguments.kills:
            before = kills[-1].reported if kills else 0
            kills.append(kill := kill_once(folder, before, arguments.seconds, rng))
            part = "–" if kill.written is None else f"{kill.written / 1e6:.1f} MB"
            table.add_row(str(len(kills)), str(kill.reported), str(kill.found), part, kill.lost)
    console.print(table)
    lost = sum(bool(kill.lost) for kill in kills)
    console.print(
        f"{len(kills)} kills, {hits(kills)} of them while a checkpoint was being written: "
        f"{lost} lost runs"
    )
    return 0 if hits(kills) == arguments.kills and not lost else 1


if __name__ == "__main__":
    sys.exit(main())
