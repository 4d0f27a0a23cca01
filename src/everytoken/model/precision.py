"""In which precision something is computed."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a matrix product with x here and now: autocast's if that is on, or x's own."""
    return torch.get_autocast_dtype(x.device.type) if _is_autocast(x) else x.dtype


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is in that."""
    return x if x.dtype == torch.float64 else x.float()


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context in which products on x's device are in the dtype of their factors."""
    return torch.autocast(x.device.type, enabled=False) if _is_autocast(x) else nullcontext()


def warning(device: torch.device, dtype: torch.dtype) -> str | None:
    """What to know before computing in a dtype on a device, if it is slow there."""
    is_bf16 = device.type == "cpu" and dtype == torch.bfloat16
    if is_bf16 and torch.backends.cpu.get_cpu_capability() == "AVX2":
        return (
            "this CPU has no AVX-512, and without that bf16 was 20 times slower than fp32: use "
            "precision=fp32"
        )
    return None


def unused_gpu(accelerator: str) -> str | None:
    """What to know of a GPU that is here and that `trainer.accelerator` leaves alone."""
    if accelerator == "auto" and torch.backends.mps.is_available():
        return (
            "the Apple GPU here isn't used, but the CPU: it has no float64, in which losses are "
            "added up (trainer=cpu leaves this line out)"
        )
    return None


def _is_autocast(x: Tensor) -> bool:
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
