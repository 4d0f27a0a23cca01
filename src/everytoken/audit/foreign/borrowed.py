"""A user's model, borrowed: on the CPU, in float32, without dropout, and given back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn

from everytoken.audit.subject import add_noise


@contextmanager
def borrowed(model: nn.Module, layers: int | None = None) -> Iterator[None]:
    """The model works on copies of its weights, which are moved a little, until the end.

    It stays in evaluation mode, whoever asks it to train: there is no dropout.

    Args:
        model: any.
        layers: how many entries of each `nn.ModuleList` stay; None for all.
    """
    held = [*dict.fromkeys(chain(model.parameters(), model.buffers()))]
    kept = [(tensor, tensor.data, tensor.grad, tensor.requires_grad) for tensor in held]
    modes = [(part, part.training) for part in model.modules()]
    stacks = [] if layers is None else _stacks(model)
    try:
        for tensor in held:
            data = tensor.detach().to("cpu", copy=True)
            tensor.data = data.float() if data.is_floating_point() else data
            tensor.grad = None
        for modules, _ in stacks:
            del modules[layers:]
        for part, _ in modes:
            part.training = False
            vars(part)["train"] = _stay(part)
        add_noise(model)
        yield
    finally:
        for modules, whole in stacks:
            modules.extend(whole[len(modules) :])
        for part, training in modes:
            vars(part).pop("train", None)
            part.training = training
        for tensor, data, gradient, requires_grad in kept:
            tensor.data = data
            tensor.grad = gradient
            tensor.requires_grad_(requires_grad)


def _stay(part: nn.Module) -> Any:
    return lambda mode=True: part


def _stacks(model: nn.Module) -> list[tuple[nn.ModuleList, list[nn.Module]]]:
    return [(part, [*part]) for part in model.modules() if isinstance(part, nn.ModuleList)]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@contextmanager
def weights_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards all weights and buffers are what they were."""
    held = [*dict.fromkeys(chain(model.parameters(), model.buffers()))]
    values = [tensor.detach().clone() for tensor in held]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(held, values, strict=True):
                tensor.data = value
