"""Checks of loss and hits of one micro-batch, against a reference in float64."""

from dataclasses import replace

import torch
from torch import Tensor

from everytoken.audit.check import Check, Finding, worst
from everytoken.audit.subject import Subject
from everytoken.batch import IGNORE_INDEX, Batch


def reference_losses(
    logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> Tensor:
    """(M,) losses by the definition: (1 - s) x surprise of the target + s x mean surprise.

    And z_loss x the square of the logarithm of the softmax's denominator.
    """
    log_z = logits.double().logsumexp(-1, keepdim=True)
    surprise = log_z - logits.double()
    own = surprise.gather(1, targets[:, None]).squeeze(1)
    losses = (1 - label_smoothing) * own + label_smoothing * surprise.mean(-1)
    return losses + z_loss * log_z.squeeze(1) ** 2


def loss(subject: Subject) -> Finding:
    """The sum of the losses of the batch."""
    return _loss(subject, subject.batch, 0.0)


def label_smoothing(subject: Subject) -> Finding:
    """The same with smoothing: its mass is spread at target positions only."""
    smoothing = subject.module.label_smoothing or 0.1
    return _loss(subject, subject.batch, smoothing)


@torch.no_grad()
def _loss(subject: Subject, batch: Batch, smoothing: float) -> Finding:
    right = float(reference_losses(subject.logits(batch), batch.targets, smoothing).sum())
    found = float(subject.module.target_sums(batch, smoothing).loss)
    return Finding(
        abs(found - right) / right, note=f"the losses add up to {found:.6g} and not to {right:.6g}"
    )


def vocabulary(subject: Subject) -> Finding:
    """The losses with each id of the vocabulary as a target."""
    findings = []
    count = subject.batch.target_count
    for first in range(0, len(subject.tokenizer), count):
        ids = [(first + i) % len(subject.tokenizer) for i in range(count)]
        finding = _loss(subject, _relabelled(subject.batch, ids), 0.0)
        findings.append(finding)
        if not finding.difference <= finding.limit:
            losses = {i: _loss(subject, _relabelled(subject.batch, [i] * count), 0.0) for i in ids}
            bad = max(losses, key=lambda i: losses[i].difference)
            return losses[bad]._replace(note=f"token {bad} as a target: {losses[bad].note}")
    return worst(findings)


def _relabelled(batch: Batch, ids: list[int]) -> Batch:
    labels = torch.full_like(batch.labels, IGNORE_INDEX)
    labels[batch.is_target] = torch.tensor(ids)
    return replace(batch, labels=labels)


@torch.no_grad()
def accuracy(subject: Subject) -> Finding:
    """Hits among the targets of the batch, half of which are made right."""
    best = subject.logits(subject.batch).argmax(-1)
    ids = best.clone()
    ids[::2] = (ids[::2] + 1) % len(subject.tokenizer)
    batch = _relabelled(subject.batch, ids.tolist())
    right, found = len(ids) // 2, int(subject.module.target_sums(batch).correct)
    return Finding(abs(found - right) / max(1, right), 0.0, f"{found} hits for {right}")


CHECKS = (
    Check(
        "loss",
        "the sum over target tokens equals a naive one in float64",
        "`target_sums`: which positions count, and in which precision",
        loss,
    ),
    Check(
        "vocabulary",
        "every id counts as a target",
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
