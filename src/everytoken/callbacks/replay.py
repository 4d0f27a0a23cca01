"""An optimizer step replayed with the same randomness, each layer watched: where does it go wrong?

`Step` is what it depends on, and can be written to a file. Nothing is exchanged between ranks here,
but for what is sharded over them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from everytoken.batch import Batch
from everytoken.runtime.files import replacing
from everytoken.training.distributed import whole
from everytoken.training.loss import is_fused
from everytoken.training.module import TokenModule
from everytoken.training.seeding import seed_step

HEAD_TOKENS = 512
"""Tokens whose logits are looked at together."""


class Range(NamedTuple):
    """What values some tensors have."""

    low: float
    """The least of those that are finite; inf if none is."""
    high: float
    bad: int
    """How many are NaN or infinite."""
    count: int

    @classmethod
    def of(cls, tensor: Tensor) -> "Range":
        """The range of a tensor of any shape."""
        tensor = tensor.detach()
        finite = tensor[tensor.isfinite()]
        low, high = finite.aminmax() if len(finite) else (float("inf"), -float("inf"))
        return cls(float(low), float(high), tensor.numel() - len(finite), tensor.numel())

    def __or__(self, other: "Range") -> "Range":
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Range(low, high, self.bad + other.bad, self.count + other.count)


class Finding(NamedTuple):
    """Where a step first went wrong."""

    micro_batch: int
    """Its number among those of its rank, from 0."""
    what: str
    """Which layer or parameter, and what of it."""
    in_forward: bool
    """False if only gradients weren't finite; of a sharded model they are those of all ranks."""
    examples: list[int]
    """Indices in the split of the examples concerned; [] if they have none."""


@dataclass(eq=False)
class Observed:
    """A micro-batch that was repeated."""

    inputs: dict[str, Range]
    """Of layers that were given something that isn't finite, by name."""
    outputs: dict[str, Range]
    """Of each layer, in the order in which they were done."""
    gradients: dict[str, Range]
    """Of each parameter, in the model's order."""
    where: str | None
    """The layer or parameter that first wasn't finite; None if none was."""
    fault: str | None
    """The same in words; None if all was finite."""
    in_forward: bool
    """True if the loss wasn't finite."""
    rows: list[int]
    """The examples concerned, by their place in the micro-batch."""


@dataclass(frozen=True, eq=False)
class Step:
    """All that an optimizer step of one rank depends on, but for the model and its weights."""

    micro_batches: list[Batch]
    share: float
    """What summed losses are multiplied by, see `StepState.gradient_scale`."""
    seed: int
    steps_made: int
    """Optimizer steps before this one."""
    rank: int
    """Among those that read different examples."""
    world_size: int
    """Of these."""
    precision: str
    """As the trainer calls it."""
    device: str
    """Its type."""

    def repeat(self, module: TokenModule) -> list[Observed]:
        """Do forward and backward again; all ranks together if there are several."""
        seed_step(self.seed, self.steps_made, self.rank)
        with torch.compiler.set_stance("force_eager"):  # compiled layers have no hooks
            return [_observe(module, batch, self.share) for batch in self.micro_batches]

    def finding(self, observed: list[Observed]) -> Finding | None:
        """The first micro-batch that went wrong in forward, or else the first in backward."""
        faults = [(not seen.in_forward, i) for i, seen in enumerate(observed) if seen.fault]
        if not faults:
            return None
        i = min(faults)[1]
        batch, seen = self.micro_batches[i], observed[i]
        assert seen.fault is not None
        indices = [] if batch.indices is None else batch.indices[seen.rows].tolist()
        return Finding(i, seen.fault, seen.in_forward, indices)

    def save(self, file: Path, weights: dict[str, Tensor], finding: Finding | None) -> None:
        """Write it in plain containers and tensors, with the model's weights and what was found."""
        plain = {name: value for name, value in vars(self).items() if name != "micro_batches"}
        plain["micro_batches"] = [vars(batch.to("cpu")) for batch in self.micro_batches]
        file.parent.mkdir(parents=True, exist_ok=True)
        found = None if finding is None else finding._asdict()
        with replacing(file) as new:
            torch.save({"step": plain, "weights": weights, "finding": found}, new)

    @classmethod
    def load(cls, file: Path, device: torch.device) -> tuple["Step", dict[str, Tensor]]:
        """A step and its weights, as saved; micro-batches on the device, weights on the CPU."""
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        plain = content["step"]
        batches = [Batch(**fields).to(device) for fields in plain.pop("micro_batches")]
        return cls(micro_batches=batches, **plain), content["weights"]


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's state on the CPU; of a sharded model on all ranks, together."""
    return {name: whole(tensor).cpu() for name, tensor in model.state_dict().items()}


def _observe(module: TokenModule, batch: Batch, share: float) -> Observed:
    parameters = list(module.model.named_parameters())
    with _watched(module.model) as watch:
        loss = module.training_sums(batch).loss
        if is_fused(module.head):  # which isn't called as a layer
            with torch.no_grad():
                for part in watch.hidden.split(HEAD_TOKENS):
                    module.head(part)
    module.backward(loss * share)
    gradients: dict[str, Range] = {}
    norms: dict[str, Tensor] = {}
    for name, parameter in parameters:
        if parameter.grad is not None:
            gradient = whole(parameter.grad)
            gradients[name], norms[name] = Range.of(gradient), gradient.norm()
            parameter.grad = None
    where, fault, rows = None, None, list(range(len(batch.lengths)))
    in_forward = not bool(loss.isfinite())
    if in_forward:  # else what isn't finite in a layer has no effect, as in a mask
        where, fault = watch.first or (None, "the loss is the first that isn't finite")
        bad = ~watch.hidden.isfinite().all(-1)
        if bad.any():
            rows = batch.is_target.nonzero()[bad][:, 0].unique().tolist()
    elif overflown := [name for name, norm in norms.items() if not norm.isfinite()]:
        where = max(overflown, key=watch.place)  # backward comes to the last layer first
        fault = f"forward is finite, and {where} is the first whose gradient has no finite norm"
    return Observed(watch.inputs, watch.outputs, gradients, where, fault, in_forward, rows)


class _Watch:
    """What the layers of a model take and give."""

    def __init__(self) -> None:
        self.inputs: dict[str, Range] = {}
        self.outputs: dict[str, Range] = {}
        self.first: tuple[str, str] | None = None
        self.hidden = torch.empty(0)

    def take(self, name: str, value: object) -> None:
        """Note what a layer is given, if it isn't finite."""
        seen = _range(value)
        if seen is not None and seen.bad:
            self._note(self.inputs, name, seen)
            self.first = self.first or (name, f"{name} is the first whose input isn't finite")

    def give(self, name: str, value: object) -> None:
        """Note what a layer gives."""
        seen = _range(value)
        if seen is not None:
            self._note(self.outputs, name, seen)
            if seen.bad:
                self.first = self.first or (name, f"{name} is the first whose output isn't finite")

    def place(self, parameter: str) -> int:
        """When the layer of a parameter was done, in forward."""
        names = list(self.outputs)
        layer = parameter.rpartition(".")[0]
        return names.index(layer) if layer in names else -1

    @staticmethod
    def _note(known: dict[str, Range], name: str, seen: Range) -> None:
        known[name] = known[name] | seen if name in known else seen


@contextmanager
def _watched(model: nn.Module) -> Iterator[_Watch]:
    """A model whose layers are watched; the model itself bears the name of its class."""
    watch = _Watch()

    def watch_layer(layer: nn.Module, name: str) -> list[Any]:
        return [
            layer.register_forward_pre_hook(lambda _, taken: watch.take(name, taken)),
            layer.register_forward_hook(lambda _, taken, given: watch.give(name, given)),
        ]

    def keep_hidden(_: nn.Module, taken: object, given: Tensor) -> None:
        watch.hidden = given.detach()

    handles = [model.register_forward_hook(keep_hidden)]
    for name, layer in model.named_modules():
        handles += watch_layer(layer, name or type(model).__name__)
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def _range(value: object) -> Range | None:
    """The range of all numbers in nested containers; None if there are none."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            return None
        return Range.of(whole(value))
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return None
    ranges = [seen for part in value if (seen := _range(part)) is not None]
    return reduce(Range.__or__, ranges) if ranges else None
