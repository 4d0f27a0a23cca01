"""A model that is built without memory, and gets its values a part at a time.

Its parts are on the meta device. What would fill them is written down, with the state of the random
numbers at each draw, and done later, for the weights that are asked for alone. They are, bit for
bit, those of a model that was built at once.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode

from everytoken.errors import one_line
from everytoken.runtime.console import warn
from everytoken.training.torch_internals import OpOverload, TorchDispatchMode, written_arguments

META, CPU = torch.device("meta"), torch.device("cpu")

VALUES = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
"""Operations that look into a tensor."""

OVERWRITES = {"aten::normal_", "aten::uniform_", "aten::zero_", "aten::fill_"}
"""Operations that leave nothing of what was in their first argument."""


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
            _generator(self.settings).set_state(self.random_state)
        made = _tensors(self.function(*arguments, **settings))
        if self.makes:
            for storage, tensor in zip(self.makes, made, strict=True):
                storages[storage] = tensor.untyped_storage()


def built(make: Callable[[], nn.Module]) -> tuple[nn.Module, "Deferred"]:
    """A model without memory and what is to fill it; or one that is built at once, which is told.

    Args:
        make: makes the model.
    """
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    deferred = Deferred()
    try:
        with deferred.building():
            return make(), deferred
    except Exception as error:  # whatever a constructor does with values that aren't there
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
        model = make()
        warn(
            f"{type(model).__name__} can't be built without memory ({one_line(error, 150)}): each "
            "rank builds all of it before it is sharded"
        )
        return model, Deferred()


class Disguise(TorchFunctionMode):
    """What has no memory says that it is on the CPU: torch leaves such tensors as they are."""

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call what was called, but for two questions."""
        found = func(*args, **(kwargs or {}))
        if func == torch.Tensor.is_meta.__get__:  # pyright: ignore[reportAttributeAccessIssue]
            return False
        return CPU if isinstance(found, torch.device) and found == META else found


class Deferred(TorchDispatchMode):
    """What is to fill the models that are made in `building`."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.storages: dict[int, torch.UntypedStorage] = {}
        """Without memory; an id is that of one of them as long as they are all here."""

    @contextmanager
    def building(self) -> Iterator[None]:
        """What is made in here has no memory.

        Random numbers are drawn all the same, so that those which follow are the same.
        """
        with Disguise(), self:
            yield

    @torch.no_grad()
    def fill(self, part: nn.Module, model: nn.Module) -> None:
        """Give what has no memory in a part of a model its values, on the CPU.

        Args:
            part: of the model, or all of it.
            model: where what is tied to something in the part stays so.
        """
        wanted = {id(t): t for home in part.modules() for _, t in _without_memory(home)}
        views = {key: self._view(tensor) for key, tensor in wanted.items()}
        storages = self._filled({view.storage for view in views.values()})
        _put(model, {key: view.of(storages) for key, view in views.items()})

    def _filled(self, wanted: set[int]) -> dict[int, torch.UntypedStorage]:
        """Storages with memory and values, by the id of those without."""
        needed, chosen = set(wanted), []
        for operation in reversed(self.operations):
            if not needed.isdisjoint(operation.writes):
                chosen.append(operation)
                needed -= operation.writes if operation.overwrites else set()
                needed |= operation.reads
        storages: dict[int, torch.UntypedStorage] = {}
        generators = {_generator(operation.settings) for operation in chosen}
        states = [(generator, generator.get_state()) for generator in generators]
        for operation in reversed(chosen):
            operation.run(storages)
        for generator, state in states:
            generator.set_state(state)
        return storages

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Do an operation, and write it down if it makes or fills what has no memory."""
        settings = dict(kwargs or {})
        inputs = _tensors((args, settings))
        given = {self._view(tensor).storage for tensor in inputs if _is_empty(tensor)}
        written = _tensors([args[i] for i in written_arguments(func) if i < len(args)])
        if given and (func in VALUES or not all(map(_is_empty, written))):
            return func(*map_aggregate(args, self.value), **settings)  # its values are needed now
        is_new = not inputs and settings.get("device", META) in (None, CPU)
        if is_new:
            settings["device"] = META  # it makes a tensor out of nothing
        made = func(*(map_aggregate(args, _emptied) if given else args), **settings)
        if is_new:
            settings["dtype"] = made.dtype  # the default may be another when it is filled
        places = [self._view(tensor).storage for tensor in filter(_is_empty, _tensors(made))]
        if not given and not places:
            return made
        views = [self._view(tensor) for tensor in written]
        makes = [] if given.intersection(places) else places
        if not makes and not views:
            return made  # another view of the same
        overwrites = func.name().partition(".")[0] in OVERWRITES and views[0].covers()
        writes = {view.storage for view in views}
        is_random = torch.Tag.nondeterministic_seeded in func.tags
        operation = Operation(
            func,
            *map_aggregate((args, settings), self._seen),
            reads=given - writes if overwrites else given,
            writes=writes.union(makes),
            makes=makes,
            overwrites=overwrites or bool(makes),
            random_state=_generator(settings).get_state() if is_random else None,
        )
        self.operations.append(operation)
        if is_random:
            operation.run({})  # for the generator's sake
        return made

    def value(self, leaf: Any) -> Any:
        """A tensor without memory as it is now, with memory; anything else as it is."""
        if not isinstance(leaf, Tensor) or not _is_empty(leaf):
            return leaf
        view = self._view(leaf)
        return view.of(self._filled({view.storage}))

    def _seen(self, leaf: Any) -> Any:
        return self._view(leaf) if isinstance(leaf, Tensor) and _is_empty(leaf) else leaf

    def _view(self, tensor: Tensor) -> View:
        storage = tensor.untyped_storage()
        self.storages[id(storage)] = storage
        return View(
            id(storage),
            storage.nbytes(),
            tensor.dtype,
            tensor.size(),
            tensor.stride(),
            int(tensor.storage_offset()),
        )


@torch.no_grad()
def load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """As `load_state_dict` of a part of its names; tensors without memory become those given.

    Args:
        model: some of its weights may be without memory.
        state: by name, in shapes of the model's.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    named |= dict(model.named_buffers(remove_duplicate=False))
    empty = [name for name in state if _is_empty(named[name])]
    _put(model, {id(named[name]): state[name].to(named[name].dtype) for name in empty})
    rest = {name: tensor for name, tensor in state.items() if name not in empty}
    model.load_state_dict({**model.state_dict(), **rest})


def _put(model: nn.Module, made: dict[int, Tensor]) -> None:
    """Replace tensors without memory, by id, wherever they are in a model."""
    once: dict[int, Tensor] = {}  # what is tied stays so
    for home in model.modules():
        for name, tensor in _without_memory(home):
            if (key := id(tensor)) not in made:
                continue
            if isinstance(tensor, nn.Parameter) and key not in once:
                once[key] = nn.Parameter(made[key], requires_grad=tensor.requires_grad)
            setattr(home, name, once.setdefault(key, made[key]))


def _without_memory(home: nn.Module) -> list[tuple[str, Tensor]]:
    """Tensors of a module itself, by name: weights, buffers, and what else it keeps."""
    kept = [(name, value) for name, value in vars(home).items() if isinstance(value, Tensor)]
    named = [*home.named_parameters(recurse=False, remove_duplicate=False)]
    named += [*home.named_buffers(recurse=False, remove_duplicate=False), *kept]
    return [(name, tensor) for name, tensor in named if _is_empty(tensor)]


def _is_empty(tensor: Tensor) -> bool:
    return tensor.untyped_storage().device == META


def _emptied(leaf: Any) -> Any:
    return leaf.to(META) if isinstance(leaf, Tensor) else leaf


def _tensors(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_aggregate(tree, lambda leaf: found.append(leaf) if isinstance(leaf, Tensor) else None)
    return found


def _generator(settings: dict[str, Any]) -> Generator:
    return settings.get("generator") or torch.default_generator
