"""Masked cross-entropy. Training works with sums and counts; a mean is made once, by the caller.

A target is one of V, or a choice of C classes: any of them, each by itself. Then it is one target
all the same, whose loss is the mean over the classes of their binary cross-entropies.

Shapes: V vocabulary, D width, M target tokens, C classes.
"""

from dataclasses import dataclass
from typing import Literal, TypeGuard

from torch import Tensor, nn
from torch.nn import functional as F

from everytoken.batch import IGNORE_INDEX
from everytoken.errors import UserError
from everytoken.model.precision import at_least_float32
from everytoken.training.linear_cross_entropy import linear_cross_entropy


def masked_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    ignore_index: int = IGNORE_INDEX,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """Cross-entropy over the positions that have a target.

    Agrees with `torch.nn.functional.cross_entropy` wherever that is defined, and stays defined
    where it isn't: with no target left the loss is 0 and so is its gradient. Logits at ignored
    positions can't reach loss or gradient, not even as NaN or infinity.

    Args:
        logits: (…, V) floating point; half precision is computed in float32.
        targets: (…) int64 in [0, V), or ignore_index.
        ignore_index: marks positions without a target.
        label_smoothing: share of the mass spread evenly over the vocabulary (Szegedy et al. 2016,
            section 7), at target positions only.
        reduction: "mean" over target tokens, their "sum", or "none" for one loss a position, (…).

    Returns:
        () or (…) in float32, or float64 for float64 logits.

    Raises:
        ValueError: shapes don't fit, or an unknown reduction.
    """
    check_shapes(logits, targets)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    is_target = targets != ignore_index
    # Without the fill, an infinite logit in the padding would turn the gradient into NaN.
    logits = logits.masked_fill(~is_target.unsqueeze(-1), 0.0)
    logits = at_least_float32(logits)
    losses = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]),
        targets.reshape(-1),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction="none",
    ).view(targets.shape)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return losses.sum() / is_target.sum().clamp(min=1)


def check_shapes(logits: Tensor, targets: Tensor) -> None:
    """Refuse logits that aren't (…, V) for targets (…).

    Raises:
        ValueError: with both shapes.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}, targets {tuple(targets.shape)}: "
            "expected (…, V) and (…)"
        )


@dataclass(frozen=True, eq=False)
class TargetSums:
    """Sums over the target tokens of a micro-batch; divided by nobody yet."""

    loss: Tensor
    """() float64: sum of the cross-entropy, carries the gradient."""
    correct: Tensor
    """() int64: target tokens whose most likely token is the right one; or choice, wholly."""

    @classmethod
    def of(cls, losses: Tensor, logits: Tensor, targets: Tensor) -> "TargetSums":
        """Add up losses of one's own.

        Args:
            losses: (M,) one per target token.
            logits: (M, V) what the hits are counted of.
            targets: (M,) int64, none of them ignored; or (M, C) of 0 and 1.

        Raises:
            UserError: not one loss per target token: their mean, say.
        """
        if losses.shape != targets.shape[:1]:
            raise UserError(
                f"a loss has shape {tuple(losses.shape)} and must be {tuple(targets.shape[:1])}, "
                'one for each target token (reduction="none"): the step divides their sum, once'
            )
        # Added up in float64, the sum doesn't depend on which tokens share a micro-batch.
        found = most_likely(logits.detach(), targets) == targets
        return cls(losses.double().sum(), (found if found.ndim == 1 else found.all(-1)).sum())


def most_likely(logits: Tensor, targets: Tensor) -> Tensor:
    """What logits (M, V) say of targets, in their form: (M,), or (M, C) of 0 and 1."""
    return logits.argmax(-1) if targets.ndim == 1 else (logits > 0).long()


def is_fused(head: nn.Module) -> TypeGuard[nn.Linear]:
    """True if the loss is computed together with this head, see `linear_cross_entropy`."""
    return type(head) is nn.Linear


def target_losses(
    logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> Tensor:
    """(M,) the loss of each target; arguments as of `target_sums`, logits (M, V) in float32."""
    if targets.ndim == 2:
        if z_loss:
            raise UserError(
                "classes of which a text may have several have no softmax: set z_loss=0"
            )
        wanted = targets * (1 - label_smoothing) + label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(-1)
    losses = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")
    return losses + z_loss * logits.logsumexp(-1) ** 2 if z_loss else losses


def target_sums(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> TargetSums:
    """Loss and hits of hidden states at target positions.

    A plain linear head is fused with the loss, and its logits never exist all at once; of any other
    head they do.

    Args:
        hidden: (M, D) one row per target token; M may be 0.
        head: maps (M, D) to logits (M, V).
        targets: (M,) int64, none of them ignored; or (M, C) of 0 and 1, for a head of C classes.
        label_smoothing: see `masked_cross_entropy`; of a class the mass is spread over yes and no.
        z_loss: see `linear_cross_entropy`.

    Raises:
        UserError: a z-loss of choices of classes, which have no softmax.
    """
    if is_fused(head) and targets.ndim == 1:
        loss, correct = linear_cross_entropy(
            hidden, head.weight, head.bias, targets, label_smoothing, z_loss
        )
        return TargetSums(loss, correct)
    logits = at_least_float32(head(hidden))  # (M, V)
    losses = target_losses(logits, targets, label_smoothing, z_loss)
    return TargetSums.of(losses, logits, targets)
