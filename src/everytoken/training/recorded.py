"""An operation on tensors without memory, written down to be done later with memory."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.fx.node import map_aggregate

from everytoken.training.torch_internals import OpOverload

META, CPU = torch.device("meta"), torch.device("cpu")


@dataclass(frozen=True)
class View:
    """A tensor without memory: a way to look at a storage."""

    storage: int
    bytes: int
    """Of the storage."""
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def of(self, storages: dict[int, torch.UntypedStorage]) -> Tensor:
        """The tensor, with memory: in its storage, which is added if it isn't there."""
        if self.storage not in storages:
            storages[self.storage] = torch.UntypedStorage(self.bytes)
        empty = torch.empty(0, dtype=self.dtype, device=CPU)
        return empty.set_(storages[self.storage], self.offset, self.size, self.stride)

    def covers(self) -> bool:
        """True if nothing else is in the storage."""
        return self.size.numel() * self.dtype.itemsize == self.bytes


@dataclass(frozen=True)
class Operation:
    """What makes storages, or writes to them."""

    function: OpOverload
    arguments: tuple[Any, ...]
    settings: dict[str, Any]
    reads: set[int]
    writes: set[int]
    """Those that it makes among them."""
    makes: list[int]
    """In the order of what it returns."""
    overwrites: bool
    """True if nothing matters any more that was in what it writes to."""
    random_state: Tensor | None
    """Of the generator that it draws from, before."""

    def run(self, storages: dict[int, torch.UntypedStorage]) -> None:
        """Do it in storages with memory, to which those that it makes are added.

        The generator is moved on from where it was when this was written down.
        """

        def real(leaf: Any) -> Any:
            if isinstance(leaf, View):
                return leaf.of(storages)
            return CPU if isinstance(leaf, torch.device) and leaf == META else leaf

        arguments, settings = map_aggregate((self.arguments, self.settings), real)
        if self.random_state is not None:
            generator_of(self.settings).set_state(self.random_state)
        made = tensors_in(self.function(*arguments, **settings))
        if self.makes:
            for storage, tensor in zip(self.makes, made, strict=True):
                storages[storage] = tensor.untyped_storage()


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors in arguments of an operation, or in what it gives."""
    found: list[Tensor] = []
    map_aggregate(tree, lambda leaf: found.append(leaf) if isinstance(leaf, Tensor) else None)
    return found


def generator_of(settings: dict[str, Any]) -> Generator:
    """The generator that an operation draws from."""
    return settings.get("generator") or torch.default_generator
