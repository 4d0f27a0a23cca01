"""Checks of a GPU, before anything is measured on it: `python -m benchmarks.gpu_checks CHECK`.

- agree: loss and gradient by `varlen` and `padded`, in half precision, against float32 on the CPU.
- compile: a compiled model on batches of changing lengths gives what the eager one gives.

What was found is written to --out after each line of it; the exit code is 1 if one is not ok.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gate import now
from everytoken.batch import IGNORE_INDEX, Batch
from everytoken.data.collate import Example, collate
from everytoken.errors import UserError
from everytoken.model.backends import Backend
from everytoken.model.transformer import Shape, Transformer
from everytoken.training.loss import TargetSums, target_sums

Found = dict[str, Any]

SHAPES: tuple[Shape, ...] = ("encoder_decoder", "decoder", "encoder")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BOUNDS = {"fp32": 1e-5, "bf16": 3e-2, "fp16": 5e-3}
"""Of relative distances: a few times what rounding to the dtype gives."""
LENGTHS = (1, 7, 64, 33, 200, 512, 129)


def model_of(shape: Shape, attention: Backend, window: int | None, *, tiny: bool) -> Transformer:
    """A small model, its weights the same at each call."""
    torch.manual_seed(0)
    return Transformer(
        shape=shape,
        vocabulary=512,
        layers=1 if tiny else 4,
        width=32 if tiny else 256,
        heads=2 if tiny else 4,
        key_value_heads=1 if tiny else 2,
        ffn_width=48 if tiny else 704,
        tie_embeddings=True,
        rope_base=10_000.0,
        norm_eps=1e-6,
        window=window,
        attention=attention,
    )


def batch_of(lengths: Sequence[int], *, source: bool, seed: int = 0) -> Batch:
    """Random tokens, a third of which are no targets."""
    rng = np.random.default_rng(seed)

    def example(length: int) -> Example:
        ids, labels = rng.integers(0, 512, (2, length))
        labels = np.where(rng.random(length) < 1 / 3, IGNORE_INDEX, labels)
        return Example(ids, labels, rng.integers(0, 512, length // 2 + 1) if source else None)

    return collate([example(length) for length in lengths], 0)


def sums_of(model: Transformer, batch: Batch, precision: str, device: str) -> TargetSums:
    """Loss of a batch, with products in a precision."""
    dtype = DTYPES[precision]
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        return target_sums(model(batch), model.head, batch.targets)


def differentiated(
    model: Transformer, batch: Batch, precision: str, device: str
) -> tuple[float, Tensor]:
    """Loss, and the gradient of all weights in a row, on the CPU, of a target token's mean."""
    model, batch = model.to(device), batch.to(device)
    sums = sums_of(model, batch, precision, device)
    (sums.loss / batch.target_count).backward()
    gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    return float(sums.loss), torch.cat(gradients).double().cpu()


def agree(device: str, *, tiny: bool) -> Iterator[Found]:
    """Each shape, precision, way to attend and window."""
    lengths = LENGTHS[:4] if tiny else LENGTHS
    half = ("bf16", "fp16") if device == "cuda" else ("bf16",)
    ways: tuple[Backend, ...] = ("varlen", "padded") if device == "cuda" else ("bucketed", "padded")
    cases = [*product(half, ways), ("fp32", "padded")]
    for shape, window in product(SHAPES, (None, 16)):
        batch = batch_of(lengths, source=shape == "encoder_decoder")
        loss, gradient = differentiated(
            model_of(shape, "padded", window, tiny=tiny), batch, "fp32", "cpu"
        )
        for precision, way in cases:
            own_loss, own_gradient = differentiated(
                model_of(shape, way, window, tiny=tiny), batch, precision, device
            )
            errors = {
                "loss": abs(own_loss - loss) / loss,
                "gradient": float((own_gradient - gradient).norm() / gradient.norm()),
            }
            case = {"shape": shape, "window": window, "precision": precision, "attention": way}
            ok = max(errors.values()) <= BOUNDS[precision]
            yield {**case, **errors, "bound": BOUNDS[precision], "ok": ok}


def compiled(device: str, *, tiny: bool) -> Iterator[Found]:
    """Batches of other lengths each, compiled and eager."""
    rng = np.random.default_rng(1)
    for shape in SHAPES[1:2] if tiny else SHAPES:
        eager = model_of(shape, "padded" if device == "cpu" else "auto", None, tiny=tiny).to(device)
        fast = deepcopy(eager)
        torch.compiler.reset()
        fast.compile(dynamic=True, backend="aot_eager" if tiny else "inductor")
        for number in range(4 if tiny else 10):
            lengths = rng.integers(2, 40 if tiny else 500, rng.integers(3, 12)).tolist()
            batch = batch_of(lengths, source=shape == "encoder_decoder", seed=number).to(device)
            seconds, losses = {}, {}
            for name, model in (("eager", eager), ("compiled", fast)):
                started = now()
                sums = sums_of(model, batch, "bf16", device)
                sums.loss.backward()
                seconds[f"{name}_seconds"] = now() - started
                losses[name] = float(sums.loss)
            error = abs(losses["compiled"] - losses["eager"]) / losses["eager"]
            case = {"shape": shape, "batch": number, "tokens": batch.input_count, **seconds}
            yield {**case, "loss": error, "bound": 1e-2, "ok": error <= 1e-2}


CHECKS = {"agree": agree, "compile": compiled}


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that only try the code path")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("error: this needs a CUDA GPU: give --device cpu --tiny to try it", file=sys.stderr)
        return UserError.exit_code
    started, found = time.perf_counter(), []
    for one in CHECKS[arguments.check](arguments.device, tiny=arguments.tiny):
        print(" ".join(f"{key}={_short(value)}" for key, value in one.items()), flush=True)
        found.append(one)
        report = {"ok": all(f["ok"] for f in found), "seconds": time.perf_counter() - started}
        arguments.out.write_text(json.dumps({**report, "found": found}, indent=1) + "\n")
    return 0 if all(f["ok"] for f in found) else 1


def _short(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
