"""Weights out of a checkpoint, without trusting it: only plain tensors are read."""

import pickle
from pathlib import Path
from typing import Any

import torch

from everytoken.errors import UserError
from everytoken.module import TokenModule


def load_weights(module: TokenModule, path: Path) -> None:
    """Fill a module's weights from a checkpoint of the same model.

    Raises:
        UserError: no such file, not a checkpoint, or one of another shape.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint {path}: has the run trained long enough to save one?")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        weights = checkpoint["state_dict"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{path} is no checkpoint of this project: {reason}") from error
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(own.keys() | found.keys()):
        if own.get(name) != found.get(name):
            raise UserError(
                f"{path} holds another model: {name} has shape {found.get(name, 'none')} there and "
                f"{own.get(name, 'none')} in the config: use the run's own config and checkpoint"
            )
    module.load_state_dict(weights)
