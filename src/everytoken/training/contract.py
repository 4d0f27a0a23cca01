"""What `TokenModule` asks of a model, checked while it is used."""

import torch
from torch import Tensor, nn

from everytoken.batch import Batch
from everytoken.errors import UserError
from everytoken.training.loss import TargetSums


def check_batches(given: object) -> list[Batch]:
    """The micro-batches that a loader gave; one of the user's own may give a single one.

    Raises:
        UserError: it gave something else.
    """
    batches = [given] if isinstance(given, Batch) else given
    if not isinstance(batches, list) or not all(isinstance(batch, Batch) for batch in batches):
        raise UserError(
            f"the loader gave a {type(given).__name__}: collate makes a Batch of examples, and a "
            "training step takes one or a list of them"
        )
    return batches


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


def check_head(model: nn.Module) -> nn.Module:
    """The output layer of a model.

    Raises:
        UserError: it has none.
    """
    head = getattr(model, "head", None)
    if not isinstance(head, nn.Module):
        raise UserError(
            f"{type(model).__name__} has no output layer `head`: make its last layer, which turns "
            "hidden states (M, D) into logits (M, V), its attribute `head`, and return what goes in"
        )
    return head


def check_sums(model: nn.Module, sums: object) -> TargetSums:
    """What `target_sums` returned for a micro-batch.

    Raises:
        UserError: something else, or a loss without a gradient where gradients are wanted.
    """
    if not isinstance(sums, TargetSums):
        raise UserError(
            f"target_sums must return TargetSums and returned a {type(sums).__name__}: give the "
            "loss of each target token (M,) to TargetSums.of, and take no mean"
        )
    loss = sums.loss
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise UserError(
            f"the loss of {type(model).__name__} has no gradient, so nothing would be "
            "learned: look for detach, no_grad or frozen parameters in it"
        )
    return sums


def computes_on_padding(model: nn.Module) -> bool:
    """Whether the layers of a model work on padded positions; True unless it says no."""
    return getattr(model, "computes_on_padding", True)
