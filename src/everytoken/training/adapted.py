"""What checkpoints hold of a model of which only adapters are trained: these, and who the rest is.

The rest is the base: weights that exist, that never change, and that are read again from where they
are. Its SHA-256 says if they are still the same.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from everytoken.errors import UserError

KEY = "adapter"
"""In a checkpoint."""

STATES = ("state_dict", "current_model_state")
"""Where a checkpoint has weights: those that are validated, and beside an average those trained."""


@dataclass(frozen=True)
class Base:
    """The weights under an adapter."""

    place: str
    """Where they were read: a path, or a name on the hub."""
    sha256: str
    """Of their names and bytes."""

    @classmethod
    def of(
        cls,
        place: str,
        model: nn.Module,
        value: Callable[[Tensor], Tensor],
        *,
        but: Collection[str],
    ) -> "Base":
        """The base of a model that has no adapter yet: all of it, but for some weights by name.

        Args:
            place: see above.
            model: some of its weights may have no memory yet.
            value: gives what is in one of them.
            but: left out.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            if name not in but:
                digest.update(name.encode())
                flat = value(tensor.detach()).cpu().contiguous().reshape(-1)
                digest.update(flat.view(torch.uint8).numpy().data)
        return cls(place, digest.hexdigest())

    def record(self) -> dict[str, str]:
        """As a checkpoint has it."""
        return {"base": self.place, "sha256": self.sha256}

    def check(self, checkpoint: Mapping[str, Any], file: object) -> None:
        """Refuse a checkpoint whose adapter was trained on another base.

        Raises:
            UserError: with both.
        """
        there = checkpoint.get(KEY)
        if there is None:
            raise UserError(f"{file} holds no adapter: use the run's own config and checkpoint")
        if there.get("sha256") != self.sha256:
            raise UserError(
                f"{file} holds an adapter of {there.get('base')}, whose weights were others "
                f"(SHA-256 {str(there.get('sha256'))[:12]}…) than those of {self.place} "
                f"({self.sha256[:12]}…): put them back where they were"
            )


def saved_state(module: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint of a module holds: all, or over a base what is trained and its buffers."""
    state = module.state_dict()
    if getattr(module, "base", None) is None:
        return state
    weights = module.named_parameters(remove_duplicate=False)
    names = {name for name, weight in weights if weight.requires_grad}
    names |= {name for name, _ in module.named_buffers()}
    return {name: tensor for name, tensor in state.items() if name in names}


def keep_only(module: nn.Module, checkpoint: dict[str, Any], base: Base) -> None:
    """Take the base out of a checkpoint, and name it there."""
    names = saved_state(module).keys()
    for part in filter(checkpoint.__contains__, STATES):
        state = checkpoint[part]
        checkpoint[part] = {name: state[name] for name in state if name in names}
    checkpoint[KEY] = base.record()


def complete(module: nn.Module, checkpoint: dict[str, Any], base: Base) -> None:
    """Put the base into a checkpoint that was read, for those who load all of it.

    Not where weights are sharded: there a part of them is loaded, see `strict_loading`.
    """
    base.check(checkpoint, "the checkpoint")
    own = module.state_dict()
    if not any(hasattr(tensor, "full_tensor") for tensor in own.values()):
        for part in filter(checkpoint.__contains__, STATES):
            checkpoint[part] = {**own, **checkpoint[part]}
