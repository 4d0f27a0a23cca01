"""Output layer and loss in several ways: one of them, its memory, time and error, in a process.

Run as `python -m benchmarks.losses '{"name": …, "sizes": [M, D, V], "bf16": …}'`; prints JSON.

Shapes: M target tokens, D width, V vocabulary.
"""

import json
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gate import now
from everytoken.training.loss import target_sums

CHECK = (96, 48, 1000)
"""(M, D, V) of the case whose gradient is compared with float64's."""
Loss = Callable[[Tensor, nn.Linear, Tensor], Tensor]


def naive(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """Logits, then their loss."""
    return F.cross_entropy(head(hidden).float(), targets)


def torch_default(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """torch's function for both, as it is called without options."""
    return F.linear_cross_entropy(hidden, head.weight, targets)  # pyright: ignore[reportAttributeAccessIssue]


def torch_chunked(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """torch's function for both, in chunks."""
    options = nn.LinearCrossEntropyOptions()  # pyright: ignore[reportAttributeAccessIssue]
    return F.linear_cross_entropy(hidden, head.weight, targets, options=options)  # pyright: ignore[reportAttributeAccessIssue]


def ours(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """everytoken's."""
    return target_sums(hidden, head, targets).loss / len(targets)


def liger(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """Liger's, a kernel for CUDA."""
    fused = import_module("liger_kernel.transformers").LigerFusedLinearCrossEntropyLoss()
    return fused(head.weight, hidden, targets)


LOSSES: dict[str, Loss] = {"logits, then cross_entropy": naive}
if hasattr(F, "linear_cross_entropy"):
    LOSSES["torch linear_cross_entropy"] = torch_default
    LOSSES["torch linear_cross_entropy chunked"] = torch_chunked
LOSSES["everytoken target_sums"] = ours
if torch.cuda.is_available() and find_spec("liger_kernel"):
    LOSSES["Liger fused"] = liger


def make(sizes: list[int] | tuple[int, ...], dtype: torch.dtype, device: str) -> Any:
    """Hidden states (M, D), head and targets (M,)."""
    tokens, width, vocabulary = sizes
    torch.manual_seed(0)
    linear = nn.Linear(width, vocabulary, bias=False, device=device, dtype=dtype)
    hidden = torch.randn(tokens, width, device=device, dtype=dtype, requires_grad=True)
    return hidden, linear, torch.randint(vocabulary, (tokens,), device=device)


def differentiate(loss: Loss, case: Any, bf16: bool) -> tuple[Tensor, Tensor]:
    """Gradients of hidden states (M, D) and weight (V, D)."""
    hidden, linear, targets = case
    with torch.autocast(hidden.device.type, torch.bfloat16, enabled=bf16):
        value = loss(hidden, linear, targets)
    value.backward()
    return hidden.grad, linear.weight.grad


def errors(loss: Loss, bf16: bool, device: str) -> list[float]:
    """Distance of both gradients from float64's, by their largest entry."""
    exact = differentiate(naive_exact, make(CHECK, torch.float64, device), False)
    hidden, linear, targets = make(CHECK, torch.float64, device)
    case = hidden.detach().float().requires_grad_(), linear.float(), targets
    found = differentiate(loss, case, bf16)
    pairs = zip(found, exact, strict=True)
    return [float((f.double() - e).abs().max() / e.abs().max()) for f, e in pairs]


def naive_exact(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """In the dtype of its arguments."""
    return F.cross_entropy(head(hidden), targets)


def main() -> None:
    """One loss: errors on the small case (which warms up, too), then memory and time."""
    task = json.loads(sys.argv[1])
    loss, bf16 = LOSSES[task["name"]], task["bf16"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    hidden_error, weight_error = errors(loss, bf16, device)
    case = make(task["sizes"], torch.float32, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        _forget_peak()
        before = _resident("VmRSS")
    started = now()
    differentiate(loss, case, bf16)
    seconds = now() - started
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else _resident("VmHWM")
    answer = {"bytes": peak - before, "seconds": seconds}
    print(json.dumps({**answer, "hidden_error": hidden_error, "weight_error": weight_error}))


def _forget_peak() -> None:
    # Linux. Elsewhere the peak so far is that of importing torch, which is small.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _resident(key: str) -> int:
    """Bytes of VmRSS or VmHWM."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(x for x in status.read_text().splitlines() if x.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
