"""The loss of a batch by its definition, from the logits of the model."""

import torch

from everytoken.audit.foreign.batches import tensors
from everytoken.audit.foreign.door import Door
from everytoken.audit.foreign.influence import Influence


def reference_loss(door: Door, smoothing: float) -> float:
    """(1 - s) x surprise of the target + s x mean surprise: the mean over all targets."""
    sums = [loss_sum(door, batch, smoothing) for batch in door.alone]
    total, count = (sum(part) for part in zip(*sums, strict=True))
    return total / count


@torch.no_grad()
def loss_sum(door: Door, batch: object, smoothing: float) -> tuple[float, int]:
    """The sum over a batch's targets, in float64, and how many they are."""
    labels, is_target = tensors(batch)[door.labels], door.targets(batch)
    logits = door.logits(batch).double()
    if Influence.of(door).loss_shifts:
        logits, labels, is_target = logits[:, :-1], labels[:, 1:], is_target[:, 1:]
    surprise = -logits.log_softmax(-1)[is_target]
    own = surprise.gather(1, labels[is_target][:, None]).squeeze(1)
    losses = (1 - smoothing) * own + smoothing * surprise.mean(-1)
    return float(losses.sum()), len(losses)
