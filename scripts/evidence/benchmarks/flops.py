"""Model FLOPs of real tokens, and how many FLOP/s this machine can do at most.

Counted are the matrix products that the task needs: linear layers on real tokens, the output layer
on target tokens, attention's scores and mixtures for pairs of tokens that may see each other.
Padding, masked halves and recomputation are nobody's merit. Two FLOPs to a multiplication with
addition; backward does twice what forward does.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gate import Gate, now

PEAK_SHAPES = ((4096, 1024, 1024), (2048, 2048, 2048), (4096, 4096, 1024))
"""(M, K, N) of products whose fastest is called the peak."""
GPU_PEAK_SHAPES = ((8192, 8192, 8192), (16384, 4096, 4096))
PEAK_SECONDS = 0.25
"""How long a product is repeated in a step."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a Transformer: per stack, for an encoder-decoder."""

    layers: int
    width: int
    ffn_width: int
    vocabulary: int
    gated: bool
    """True if the feed-forward layer has three matrices (SwiGLU), False if two."""


def stack_macs(
    sizes: Sizes,
    lengths: NDArray,
    *,
    causal: bool,
    source_lengths: NDArray | None = None,
) -> float:
    """Multiplications of the blocks in forward, for sequences of these lengths.

    Args:
        sizes: of the model.
        lengths: (n,) tokens of each sequence.
        causal: True if a token sees itself and those before it only.
        source_lengths: (n,) tokens that each sequence attends to elsewhere, if it does.
    """
    lengths = lengths.astype(float)
    d, tokens = sizes.width, lengths.sum()
    linear = tokens * (4 * d * d + (3 if sizes.gated else 2) * d * sizes.ffn_width)
    pairs = (lengths * (lengths + 1) / 2 if causal else lengths**2).sum()
    if source_lengths is not None:
        source = source_lengths.astype(float)
        linear += 2 * d * d * (tokens + source.sum())
        pairs += (lengths * source).sum()
    return sizes.layers * (linear + 2 * d * pairs)


def model_flops(
    sizes: Sizes,
    lengths: NDArray,
    *,
    causal: bool,
    targets: float,
    source_lengths: NDArray | None = None,
) -> float:
    """FLOPs of forward and backward of one model that sees all these sequences.

    Args:
        sizes: of the model.
        lengths: (n,) inputs of the last stack.
        causal: of the last stack.
        targets: target tokens of all sequences together.
        source_lengths: (n,) inputs of the encoder, if there is another stack.
    """
    macs = stack_macs(sizes, lengths, causal=causal, source_lengths=source_lengths)
    if source_lengths is not None:
        macs += stack_macs(sizes, source_lengths, causal=False)
    macs += targets * sizes.width * sizes.vocabulary
    return 6 * macs


def peak(gate: Gate, bf16: bool, device: str) -> None:
    """A contestant that only multiplies matrices: "real" in its answers are FLOPs."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    shapes = GPU_PEAK_SHAPES if device == "cuda" else PEAK_SHAPES
    pairs = [
        (
            torch.randn(m, k, dtype=dtype, device=device),
            torch.randn(k, n, dtype=dtype, device=device),
        )
        for m, k, n in shapes
    ]
    gate.ready(parameters=0)
    while True:
        best = max((_speed(a, b) for a, b in pairs), key=lambda found: found[0] / found[1])
        gate.answer(seconds=best[1], real=best[0], positions=best[0], loss=None)


def _speed(a: Tensor, b: Tensor) -> tuple[int, float]:
    """FLOPs and seconds of a @ b, repeated for a while."""
    out = a @ b
    once = _seconds(lambda: torch.mm(a, b, out=out), 1)
    times = max(1, round(PEAK_SECONDS / once))
    return 2 * a.shape[0] * a.shape[1] * b.shape[1] * times, _seconds(
        lambda: torch.mm(a, b, out=out), times
    )


def _seconds(work: Callable[[], object], times: int) -> float:
    now()
    started = time.perf_counter()
    for _ in range(times):
        work()
    return now() - started
