"""In which precision something is computed."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a matrix product with x here and now: autocast's if that is on, or x's own."""
    return torch.get_autocast_dtype(x.device.type) if _is_autocast(x) else x.dtype


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context in which products on x's device are in the dtype of their factors."""
    return torch.autocast(x.device.type, enabled=False) if _is_autocast(x) else nullcontext()


def _is_autocast(x: Tensor) -> bool:
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
