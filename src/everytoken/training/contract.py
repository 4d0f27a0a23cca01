"""What `TokenModule` asks of a model, checked while it is used."""

import torch
from torch import Tensor, nn

from everytoken.batch import Batch
from everytoken.errors import UserError


def check_hidden(model: nn.Module, batch: Batch, hidden: object) -> Tensor:
    """The hidden states (M, D) that the model returned for a micro-batch.

    Raises:
        UserError: it returned something else.
    """
    if not isinstance(hidden, Tensor) or hidden.shape[:-1] != (batch.target_count,):
        found = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
        raise UserError(
            f"{type(model).__name__} must return one hidden state per target token, "
            f"({batch.target_count}, D) for {batch}, and returned {found}: "
            "take hidden[batch.is_target] of what is (B, T, D)"
        )
    return hidden


def check_gradient(model: nn.Module, loss: Tensor) -> None:
    """Refuse a loss that nothing can be learned from.

    Raises:
        UserError: it has no gradient where gradients are wanted.
    """
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise UserError(
            f"the loss of {type(model).__name__} has no gradient, so nothing would be "
            "learned: look for detach, no_grad or frozen parameters in it"
        )


def computes_on_padding(model: nn.Module) -> bool:
    """Whether the layers of a model work on padded positions; True unless it says no."""
    return getattr(model, "computes_on_padding", True)
