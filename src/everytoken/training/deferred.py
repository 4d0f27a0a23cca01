"""A model that is built without memory, and gets its values a part at a time.

Its parts are on the meta device. What would fill them is written down, with the state of the random
numbers at each draw, and done later, for the weights that are asked for alone. They are, bit for
bit, those of a model that was built at once.
"""

import os
import random
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode

from everytoken.errors import RunError, one_line
from everytoken.runtime.console import warn
from everytoken.training.recorded import CPU, META, Operation, View, generator_of, tensors_in
from everytoken.training.torch_internals import OpOverload, TorchDispatchMode, written_arguments

ONE_THREAD = "HF_DEACTIVATE_ASYNC_LOAD"
"""For transformers."""

CONVERTS = torch.ops.aten._to_copy.default
"""Makes a tensor of another type; of a real one too."""

VALUES = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
"""Operations that look into a tensor."""

LARGE = 100_000
"""Values of a tensor, from which on another type of it, as of one that lies in a file, can wait."""

QUESTIONS = {torch.Tensor.is_meta.__get__: False, torch.Tensor.device.__get__: CPU}  # pyright: ignore
"""What torch asks of a tensor, and what is answered."""

OVERWRITES = {"aten::normal_", "aten::uniform_", "aten::zero_", "aten::fill_"}
"""Operations that leave nothing of what was in their first argument."""


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
    """What gets memory later says that it is on the CPU: torch leaves meta tensors as they are.

    Args:
        storages: of what does, by id.
    """

    def __init__(self, storages: Container[int]) -> None:
        super().__init__()
        self.storages = storages

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call what was called, but for two questions."""
        if func in QUESTIONS and id(args[0].untyped_storage()) in self.storages:
            return QUESTIONS[func]
        return func(*args, **(kwargs or {}))


class Deferred(TorchDispatchMode):
    """What is to fill the models that are made in `building`."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.storages: dict[int, torch.UntypedStorage] = {}
        """Without memory; an id is that of one of them as long as they are all here."""
        self.made: set[int] = set()
        """Those among them that get memory; others were asked for without."""
        self.sources: dict[int, tuple[Tensor, int]] = {}
        """Tensors with memory that are read later, by storage, and how often each was written to
        before."""

    @contextmanager
    def building(self) -> Iterator[None]:
        """What is made in here has no memory.

        Random numbers are drawn all the same, so that those which follow are the same. What other
        threads make isn't seen: transformers is asked for none.
        """
        before = os.environ.get(ONE_THREAD)
        os.environ[ONE_THREAD] = "1"
        try:
            with Disguise(self.made), self:
                yield
        finally:
            os.environ.pop(ONE_THREAD)
            if before is not None:
                os.environ[ONE_THREAD] = before

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
        if any(_version(tensor) != before for tensor, before in self.sources.values()):
            raise RunError(
                "a tensor was written to after a model took its values, which are read only now: "
                "trainer.strategy=ddp builds the model at once"
            )
        storages: dict[int, torch.UntypedStorage] = {}
        generators = {generator_of(operation.settings) for operation in chosen}
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
        inputs = tensors_in((args, settings))
        given = {self._view(tensor).storage for tensor in inputs if _is_empty(tensor)}
        written = tensors_in([args[i] for i in written_arguments(func) if i < len(args)])
        if any(id(tensor.untyped_storage()) in self.sources for tensor in written):
            raise RuntimeError("it writes to a tensor whose values it has taken")
        if not given <= self.made:
            return func(*args, **settings)  # of what somebody wants without memory
        if given and (func in VALUES or not all(map(_is_empty, written))):
            return func(*map_aggregate(args, self.value), **settings)  # its values are needed now
        is_copy = func == CONVERTS and not given and inputs[0].numel() >= LARGE
        is_new = not inputs or is_copy  # it makes a tensor out of nothing, or out of a real one
        is_new = is_new and settings.get("device", META) in (None, CPU)
        asked = dict(settings)
        if is_new or (given and settings.get("device") == CPU):
            settings["device"] = META
        made = func(*(map_aggregate(args, _emptied) if given or is_copy else args), **settings)
        if is_new and not made.numel():
            return func(*args, **asked)  # which somebody gives a storage of their own
        if is_new:
            settings["dtype"] = made.dtype  # the default may be another when it is filled
        places = [self._view(tensor).storage for tensor in filter(_is_empty, tensors_in(made))]
        if not given and not is_new:
            return made
        views = [self._view(tensor) for tensor in written]
        makes = [] if given.intersection(places) else places
        if not makes and not views:
            return made  # another view of the same
        overwrites = func.name().partition(".")[0] in OVERWRITES and views[0].covers()
        writes = {view.storage for view in views}
        for tensor in inputs:
            if not _is_empty(tensor):
                self.sources.setdefault(self._view(tensor).storage, (tensor, _version(tensor)))
        is_random = torch.Tag.nondeterministic_seeded in func.tags
        operation = Operation(
            func,
            *map_aggregate((args, settings), self._seen),
            reads=given - writes if overwrites else given,
            writes=writes.union(makes),
            makes=makes,
            overwrites=overwrites or bool(makes),
            random_state=generator_of(settings).get_state() if is_random else None,
        )
        self.operations.append(operation)
        self.made.update(makes)
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


def _version(tensor: Tensor) -> int:
    """How often it was written to, where torch counts that."""
    return 0 if tensor.is_inference() else tensor._version


def _is_empty(tensor: Tensor) -> bool:
    return tensor.untyped_storage().device == META


def _emptied(leaf: Any) -> Any:
    return leaf.to(META) if isinstance(leaf, Tensor) else leaf
