"""Sub-command chars: nanoGPT's own train.py and model.py beside experiment=chars, on one text.

Both train on the first nine tenths of its characters, and are compared on the whole last tenth,
cut into the same windows, with what each keeps as its best checkpoint.
"""

import contextlib
import importlib.util
import json
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks import report
from benchmarks.contest import console, environment
from everytoken.commands.evaluate import load_module
from everytoken.data.collate import Example, collate
from everytoken.errors import UserError
from everytoken.run.directory import Run
from everytoken.tokenizer.tokenizer import Tokenizer

WINDOW, BATCH = 64, 12
EVALUATED = 200
"""Windows at a time."""

NANOGPT_FILES = ("train.py", "model.py", "configurator.py", "config/train_shakespeare_char.py")
Losses = Callable[[Sequence[str]], float]
"""Sum of the losses of all characters of windows but the first of each, in nats."""


def chars(arguments: Namespace) -> int:
    """Alternate whole trainings of both."""
    for name in NANOGPT_FILES:
        if not (arguments.nanogpt / name).is_file():
            raise UserError(
                f"{arguments.nanogpt / name} is missing: clone nanoGPT, give its folder"
            )
    contestants = {
        "nanoGPT": _nanogpt,
        "everytoken": partial(_everytoken, arguments.steps),
        "everytoken, half the steps": partial(_everytoken, arguments.steps // 2),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        file = arguments.file or _documentation(folder)
        text = file.read_text(encoding="utf-8")
        held_out = text[int(len(text) * 0.9) :]
        windows = [held_out[i : i + WINDOW + 1] for i in range(0, len(held_out) - 1, WINDOW)]
        console.print(f"{file}: {len(text):,} characters, the last {len(held_out):,} held out")
        for number in range(arguments.rounds):
            for name in [*contestants][:: 1 if number % 2 == 0 else -1]:
                own = folder / f"{name.replace(', ', '-').replace(' ', '-')}-{number}"
                own.mkdir()
                started = time.perf_counter()
                measured, losses = contestants[name](arguments, own, file.absolute(), text)
                measured["seconds"] = time.perf_counter() - started
                measured["loss"] = losses(windows) / (len(held_out) - 1)
                found[name].append(measured)
                console.print(f"  {name}: loss {measured['loss']:.4f}, {measured['seconds']:.0f} s")
    columns = (
        "weights",
        "loss",
        "its own estimate",
        "training, s",
        "all, s",
        "x training",
        "x all",
    )
    table = report.grid("medians", *columns, markdown=arguments.markdown)
    for name, runs in found.items():
        middle = {key: median(run[key] for run in runs) for key in runs[0]}
        ratios = [
            median(a[key] / b[key] for a, b in zip(runs, found["nanoGPT"], strict=True))
            for key in ("training", "seconds")
        ]
        table.add_row(
            name,
            f"{middle['parameters']:,.0f}",
            *(f"{middle[key]:.4f}" for key in ("loss", "estimate")),
            *(f"{middle[key]:.0f}" for key in ("training", "seconds")),
            *(f"{ratio:.2f}" for ratio in ratios),
        )
    report.show(table)
    console.print(
        f"{arguments.steps:,} steps of {BATCH} x {WINDOW} characters, "
        f"threads: {arguments.threads}; loss: nats per character of the "
        "held-out text; training: without start-up and evaluation; "
        "x: time as part of nanoGPT's in the same round"
    )
    report.write(arguments, found)
    return 0


def _documentation(folder: Path) -> Path:
    from pydoc_data.topics import topics

    file = folder / "documentation.txt"
    texts = dict.fromkeys(topics[name] for name in sorted(topics))  # several names share a text
    file.write_text("\n\n".join(texts), encoding="utf-8")
    return file


def _nanogpt(
    arguments: Namespace, folder: Path, file: Path, text: str
) -> tuple[dict[str, float], Losses]:
    """nanoGPT as its README says for CPUs; of the learning rate's schedule only the length."""
    for name in NANOGPT_FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(arguments.nanogpt / name, folder / name)
    data = folder / "data" / "chars"
    data.mkdir(parents=True)
    ids = {character: i for i, character in enumerate(sorted(set(text)))}
    cut = int(len(text) * 0.9)
    for split, part in (("train", text[:cut]), ("val", text[cut:])):
        np.array([ids[c] for c in part], dtype=np.uint16).tofile(data / f"{split}.bin")
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(ids)}))
    settings = (
        f"--dataset=chars --out_dir=out --device=cpu --compile=False --eval_iters=20 "
        f"--log_interval=1 --block_size={WINDOW} --batch_size={BATCH} --n_layer=4 --n_head=4 "
        f"--n_embd=128 --max_iters={arguments.steps} --lr_decay_iters={arguments.steps} "
        f"--dropout=0.0 --eval_interval={_interval(arguments)}"
    )
    printed = _run(arguments, folder, ["train.py", NANOGPT_FILES[-1], *settings.split()])
    times = [float(ms) for ms in re.findall(r"iter \d+: .* time ([\d.]+)ms", printed)]
    # Every _interval-th time is that of an evaluation too.
    plain = [ms for i, ms in enumerate(times) if i % _interval(arguments)]
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kept = torch.load(folder / "out" / "ckpt.pt", weights_only=True)
    with contextlib.redirect_stdout(None):  # it prints its number of weights
        model = module.GPT(module.GPTConfig(**kept["model_args"]))
    model.load_state_dict(kept["model"])
    model.eval()

    def losses(windows: Sequence[str]) -> float:
        rows = torch.tensor([[ids[c] for c in window] for window in windows])
        logits, _ = model(rows[:, :-1], rows[:, 1:].contiguous())
        return float(F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum"))

    measured = {
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "estimate": float(kept["best_val_loss"]),
        "training": sum(plain) / len(plain) * arguments.steps / 1000,
    }
    return measured, _in_parts(losses)


def _everytoken(
    steps: int, arguments: Namespace, folder: Path, file: Path, text: str
) -> tuple[dict[str, float], Losses]:
    """experiment=chars as it is, with its schedule over so many steps."""
    overrides = [
        "experiment=chars",
        f"data.path={file}",
        "data.cache_dir=null",
        "trainer=cpu",
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={min(_interval(arguments), steps)}",
        "logger=none",
        "hydra.run.dir=run",
    ]
    _run(arguments, folder, ["-m", "train", *overrides])
    run = Run.open(folder / "run")
    summary = json.loads(run.summary_file.read_text(encoding="utf-8"))
    tokenizer = Tokenizer.load(run.tokenizer_file)
    module = load_module(run, run.config, tokenizer, "best")

    def losses(windows: Sequence[str]) -> float:
        rows = [np.array(ids) for ids in tokenizer.encode([*windows])]
        examples = [Example(ids[:-1], ids[1:]) for ids in rows]
        return float(module.target_sums(collate(examples, tokenizer.special.pad)).loss)

    measured = {
        "parameters": summary["parameters"],
        "estimate": summary["val/loss"],
        "training": summary["real_tokens"] / summary["throughput/real_tokens_per_second"],
    }
    return measured, _in_parts(losses)


def _interval(arguments: Namespace) -> int:
    """Steps between evaluations, as in nanoGPT's preset."""
    return min(250, arguments.steps)


def _run(arguments: Namespace, folder: Path, command: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        env=environment(arguments.threads, folder),
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(f"python {' '.join(command)}: {done.stderr[-2000:]}")
    return done.stdout


def _in_parts(losses: Losses) -> Losses:
    """Few windows at a time, all of one length: the last one may be shorter."""

    @torch.inference_mode()
    def total(windows: Sequence[str]) -> float:
        *whole, last = windows
        parts = [whole[i : i + EVALUATED] for i in range(0, len(whole), EVALUATED)]
        return sum(losses(part) for part in [*parts, [last]])

    return total
