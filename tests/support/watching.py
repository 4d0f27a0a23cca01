"""What a program asks a device for: each time it does, it waits until all before is computed."""

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READS = (
    *(aten._local_scalar_dense, aten.is_nonzero, aten.nonzero, aten.equal, aten.masked_select),
    *(aten._unique, aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount),
)
"""Operators whose result, or its shape, the host must know."""
INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
METHODS = (Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__)
"""What reads a CPU's memory, and a device's by way of it, with no operator in between."""


class _Operators(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        repeated = packet is aten.repeat_interleave and kwargs.get("output_size") is None
        if packet in READS or (repeated and len(args) < 3) or (packet in INDEXED and _masks(args)):
            self.found.append(f"{packet.__name__} in {_place()}")
        return func(*args, **kwargs)


class _Methods(TorchFunctionMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        to_host = func is Tensor.to and "cpu" in (*args[1:], *kwargs.values())
        if func in METHODS or to_host:
            self.found.append(f"{func.__name__} in {_place()}")
        return func(*args, **kwargs)


class Watch:
    """Between `start` and `stop` it writes down where something is read, on any device.

    On a CPU nobody waits; what reads there would make a GPU's program wait.
    """

    def __init__(self) -> None:
        self.found: list[str] = []

    def start(self) -> None:
        """Look from here on."""
        self.modes = (_Operators(self.found), _Methods(self.found))
        for mode in self.modes:
            mode.__enter__()

    def stop(self) -> None:
        """No longer."""
        for mode in reversed(self.modes):
            mode.__exit__(None, None, None)


def _masks(args: Any) -> bool:
    indices = [index for index in args[1] if index is not None]
    return any(index.dtype in (torch.bool, torch.uint8) for index in indices)


def _place() -> str:
    """The innermost function that isn't of torch, nor of this file."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if "torch" not in path.parts and path != Path(__file__):
            return f"{path.stem}.{frame.name}"
    return "torch"
