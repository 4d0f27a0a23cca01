"""Checks of loss and hits of one micro-batch, against a reference in float64."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from everytoken.audit.check import Check, Finding, worst
from everytoken.audit.subject import Subject
from everytoken.batch import IGNORE_INDEX, Batch


def reference_losses(
    logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> Tensor:
    """(M,) losses by the definition: (1 - s) x surprise of the target + s x mean surprise.

    And z_loss x the square of the logarithm of the softmax's denominator. Of choices (M, C) it is
    the mean over the classes of the same for yes and no.
    """
    if targets.ndim == 2:
        surprises = torch.stack((-logits.double(), logits.double())).exp().log1p()  # of yes, of no
        own = torch.where(targets == 1, *surprises)
        return ((1 - label_smoothing) * own + label_smoothing * surprises.mean(0)).mean(-1)
    log_z = logits.double().logsumexp(-1, keepdim=True)
    surprise = log_z - logits.double()
    own = surprise.gather(1, targets[:, None]).squeeze(1)
    losses = (1 - label_smoothing) * own + label_smoothing * surprise.mean(-1)
    return losses + z_loss * log_z.squeeze(1) ** 2


def reference_sum(
    subject: Subject, batch: Batch, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> Tensor:
    """() float64, with its gradient: what the losses of a batch must add up to.

    The cross-entropy has a definition. Of a loss of one's own the sum must be that of its parts:
    of each third of the target tokens, every third token of a sequence being in the same.
    """
    if not subject.has_own_loss:
        losses = reference_losses(subject.logits(batch), batch.targets, label_smoothing, z_loss)
        return losses.sum()
    parts = (_every_third(batch, first) for first in range(3))
    sums = (subject.module.target_sums(part, label_smoothing, z_loss) for part in parts)
    return torch.stack([one.loss.double() for one in sums]).sum()


def _every_third(batch: Batch, first: int) -> Batch:
    labels = batch.labels.clone()
    labels[batch.is_target & (batch.is_target.cumsum(1) % 3 != first)] = IGNORE_INDEX
    return replace(batch, labels=labels, target_count=int((labels != IGNORE_INDEX).sum()))


def loss(subject: Subject) -> Finding:
    """The sum of the losses of the batch."""
    return _loss(subject, subject.batch, 0.0)


def label_smoothing(subject: Subject) -> Finding:
    """The same with smoothing: its mass is spread at target positions only."""
    smoothing = subject.module.label_smoothing or 0.1
    return _loss(subject, subject.batch, smoothing)


@torch.no_grad()
def _loss(subject: Subject, batch: Batch, smoothing: float) -> Finding:
    right = float(reference_sum(subject, batch, smoothing))
    found = float(subject.module.target_sums(batch, smoothing).loss)
    note = f"the losses add up to {found:.6g} and not to {right:.6g}"
    return Finding(abs(found - right) / max(abs(right), 1e-9), note=note)


def vocabulary(subject: Subject) -> Finding:
    """The losses with each id of the vocabulary as a target."""
    findings = []
    count = subject.batch.target_count
    for first in range(0, subject.target_ids, count):
        ids = [(first + i) % subject.target_ids for i in range(count)]
        if subject.has_own_loss and (out := _left_out(subject, _relabelled(subject.batch, ids))):
            note = f"{ids[out[0]]} as a target: nothing is learned of it"
            return Finding(len(out) / count, 0.0, note)
        finding = _loss(subject, _relabelled(subject.batch, ids), 0.0)
        findings.append(finding)
        if not finding.difference <= finding.limit:
            losses = {i: _loss(subject, _relabelled(subject.batch, [i] * count), 0.0) for i in ids}
            bad = max(losses, key=lambda i: losses[i].difference)
            return losses[bad]._replace(note=f"{bad} as a target: {losses[bad].note}")
    return worst(findings)


def _left_out(subject: Subject, batch: Batch) -> list[int]:
    """Which targets have no part in the loss: their hidden states have no gradient."""
    kept: list[Tensor] = []

    def keep(model: nn.Module, inputs: tuple[Batch], hidden: Tensor) -> None:
        kept.append(hidden)

    watch = subject.model.register_forward_hook(keep)
    with torch.enable_grad():
        loss = subject.module.target_sums(batch).loss
    watch.remove()
    [gradient] = torch.autograd.grad(loss, kept[-1:])  # (M, D)
    return (~gradient.any(-1)).nonzero().flatten().tolist()


def _relabelled(batch: Batch, ids: list[int]) -> Batch:
    """With other targets; of choices, with the one class of each id."""
    if batch.classes is not None:
        classes = torch.nn.functional.one_hot(torch.tensor(ids), batch.classes.shape[1])
        return replace(batch, classes=classes)
    labels = torch.full_like(batch.labels, IGNORE_INDEX)
    labels[batch.is_target] = torch.tensor(ids)
    return replace(batch, labels=labels)


@torch.no_grad()
def accuracy(subject: Subject) -> Finding:
    """Hits among the targets of the batch, half of which are made right."""
    logits = subject.logits(subject.batch)
    if subject.batch.classes is not None:
        ids = (logits > 0).long()
        ids[::2, -1] = 1 - ids[::2, -1]
        batch = replace(subject.batch, classes=ids)
    else:
        ids = logits.argmax(-1)
        ids[::2] = (ids[::2] + 1) % subject.target_ids
        batch = _relabelled(subject.batch, ids.tolist())
    right, found = len(ids) // 2, int(subject.module.target_sums(batch).correct)
    return Finding(abs(found - right) / max(1, right), 0.0, f"{found} hits for {right}")


CHECKS = (
    Check(
        "loss",
        "losses of target tokens add up: to a naive sum in float64, or part by part",
        "`target_sums`: which positions count, and in which precision",
        loss,
    ),
    Check(
        "vocabulary",
        "every token (or class) counts as a target",
        "an ignore_index that is also the id of a token",
        vocabulary,
    ),
    Check(
        "label smoothing",
        "its mass stays on target tokens",
        "`target_sums`: smoothing that is added over padding, or that is left out",
        label_smoothing,
    ),
    Check(
        "hits",
        "accuracy counts target tokens, and all of them",
        "`target_sums`: which positions are compared",
        accuracy,
    ),
)
