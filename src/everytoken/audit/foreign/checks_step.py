"""Checks of foreign steps and evaluations, however they are cut, and of going on."""

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from everytoken.audit.check import ROUNDING, Check, Finding, values_apart, worst
from everytoken.audit.foreign.batches import tensors, with_tensors
from everytoken.audit.foreign.checks_batch import apart
from everytoken.audit.foreign.door import Door
from everytoken.audit.foreign.ranks import (
    ACCUMULATED,
    CLIP_NORM,
    CLIPPED,
    EVALUATION,
    STEP,
    on_processes,
)
from everytoken.audit.foreign.reference import reference_loss
from everytoken.audit.foreign.terms import NotApplicableError, Step, gradients_of

SMOOTHING = 0.1

NO_METRIC = ("runtime", "per_second", "epoch", "preparation_time", "num_tokens", "lr")
"""Parts of the names of what is logged and is no metric."""


def step(door: Door) -> Finding:
    """The step over a batch against its examples one by one, without padding."""
    finding = (gradients_of if door.sums_losses else apart)(door.truth, door.whole)
    return finding._replace(note=f"{finding.note} from the mean over target tokens")


def accumulation(door: Door) -> Finding:
    """The same step in 4 x 2, in 8 x 1, and in uneven micro-batches, if there are some."""
    findings = []
    count = len(door.examples)
    sizes = [str(len(part)) for part in door.uneven]
    ways = {f"{', '.join(sizes[:-1])} and {sizes[-1]} together": door.uneven}
    for name, size in {"8 x 1": 1, "4 x 2": 2}.items():
        ways[name] = [[*range(i, min(i + size, count))] for i in range(0, count, size)]
    for name, parts in ways.items():
        found = door.step([door.batch(part) for part in parts])
        finding = gradients_of(door.whole, found)
        findings.append(finding._replace(note=f"{finding.note} in {name}"))
    return worst(findings)


def logged_loss(door: Door) -> Finding:
    """What is logged as loss of a step, whole and in micro-batches, on one process and on two."""
    if not door.truth.losses:
        raise NotApplicableError("no loss of a micro-batch can be seen")
    steps = {"as one micro-batch": door.whole}
    with suppress(NotApplicableError):  # the check of accumulation says so
        parts = door.uneven
        steps["in micro-batches"] = door.step([door.batch(part) for part in parts])
    with suppress(Exception):  # the check of two processes says so
        steps["on two processes"] = on_processes(door)[STEP]
    findings = []
    for how, found in steps.items():
        for name, value in found.logged.items():
            if "loss" in name.lower():
                finding = values_apart({name: door.truth.losses[0]}, {name: value})
                findings.append(finding._replace(note=f"{how} {finding.note}"))
    if not findings:
        raise NotApplicableError("no loss is logged")
    return worst(findings)


def label_smoothing(door: Door) -> Finding:
    """The loss with smoothing against its definition, whole and in micro-batches."""
    with door.smoothed(SMOOTHING):
        whole = door.step([door.batch(range(len(door.examples)))])
        parts = door.step([door.batch(part) for part in door.uneven])
        findings = [gradients_of(whole, parts)]
        findings[0] = findings[0]._replace(note=f"{findings[0].note} in micro-batches")
    if door.smoothing is not None:
        right = reference_loss(door, SMOOTHING)
        finding = values_apart({"loss": right}, {"loss": whole.losses[0]})
        findings.append(finding._replace(note=f"the smoothed {finding.note}"))
    return worst(findings)


def loss(door: Door) -> Finding:
    """The loss of a batch by its definition: the mean surprise of target tokens."""
    smoothing = door.smoothing
    if smoothing is None:
        raise NotApplicableError("the loss is of the user's own kind: nobody else has defined it")
    if not door.whole.losses:
        raise NotApplicableError("no loss of a micro-batch can be seen")
    right = reference_loss(door, smoothing)
    return values_apart({"loss": right}, {"loss": door.whole.losses[0]})


def evaluation(door: Door) -> Finding:
    """The metrics of an evaluation in one batch, and in smaller ones of which the last is short."""
    right = _metrics(door.evaluate(len(door.held_out)))
    if not right:
        raise NotApplicableError("the evaluation says nothing")
    findings = []
    for size in (2, 1):
        found = _metrics(door.evaluate(size))
        finding = values_apart(right, found)
        findings.append(finding._replace(note=f"in batches of {size} {finding.note}"))
    door.evaluate(2, first=2)
    again = values_apart(right, _metrics(door.evaluate(len(door.held_out))))
    findings.append(again._replace(note=f"after an evaluation of others {again.note}"))
    return worst(findings)


def _metrics(values: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in values.items() if not any(part in k for part in NO_METRIC)}


def no_targets(door: Door) -> Finding:
    """A step with a micro-batch that has nothing to learn."""
    if tensors(door.alone[0])[door.labels].ndim < 2:
        raise NotApplicableError("every example has a target")
    if not door.may_lack_targets:
        raise NotApplicableError("every token is a target, so that every micro-batch has some")
    half = door.batch(range(len(door.examples) // 2))
    labels = torch.full_like(tensors(half)[door.labels], door.ignored_label)
    empty = with_tensors(half, {door.labels: labels})
    findings = []
    right = _direction(door.step([half]))
    for parts in ([half, empty], [empty, half]):
        found = door.step(parts)
        if not all(bool(g.isfinite().all()) for g in found.gradients.values()):
            return Finding(float("nan"), 0.0, "the gradient is NaN or infinite")
        findings.append(gradients_of(right, _direction(found)))
    return worst(findings)


def _direction(step: Step) -> Step:
    """The same with gradients of length 1: how a step weighs micro-batches is for other checks."""
    length = _length(step.gradients) or 1.0
    return replace(step, gradients={n: g / length for n, g in step.gradients.items()})


def clipping(door: Door) -> Finding:
    """A clipped step in micro-batches, on one process and on two, against one that isn't."""
    parts = [door.batch(part) for part in door.uneven]
    with door.clipped(CLIP_NORM):
        found = door.step(parts)
    pairs = {"in micro-batches": (door.step(parts), found)}
    with suppress(Exception):  # the check of two processes says so
        both = on_processes(door)
        pairs["on two processes"] = (both[ACCUMULATED], both[CLIPPED])
    findings = []
    for how, (right, clipped) in pairs.items():
        factor = min(1.0, CLIP_NORM / _length(right.gradients))
        wanted = {name: gradient * factor for name, gradient in right.gradients.items()}
        finding = gradients_of(Step(wanted), clipped)
        findings.append(finding._replace(note=f"{finding.note} if clipped {how}"))
    return worst(findings)


def two_processes(door: Door) -> Finding:
    """The gradient of the step on two processes, whole and accumulated."""
    found = on_processes(door)
    whole = door.whole
    findings = []
    for how in (STEP, ACCUMULATED):
        finding = gradients_of(whole, found[how])
        findings.append(finding._replace(note=f"{finding.note} on two processes"))
    return worst(findings)


def evaluation_on_processes(door: Door) -> Finding:
    """The metrics of an evaluation that the framework deals out to two processes."""
    found = on_processes(door)[EVALUATION]
    if not found.logged:
        raise NotApplicableError("there is no evaluation on several processes that could be seen")
    right = _metrics(door.evaluate(len(door.held_out)))
    finding = values_apart(right, _metrics(found.logged))
    return finding._replace(note=f"on two processes {finding.note}")


def resume(door: Door) -> Finding:
    """Weights of a run that was broken off in mid-epoch, against one that wasn't."""
    if not door.settings.resume:
        raise NotApplicableError("resume=False")
    before = {name: p.detach().clone() for name, p in door.model.named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        whole, resumed = door.resumed(folder)
    way = _length({name: whole[name] - before[name] for name in whole})
    gap = _length({name: whole[name] - resumed[name] for name in whole})
    note = f"the weights end {gap / max(way, 1e-30):.2g} of the way apart"
    return Finding(gap / max(way, 1e-30), ROUNDING, note)


def _length(vectors: dict[str, Tensor]) -> float:
    return sum(float(v.double().square().sum()) for v in vectors.values()) ** 0.5


def checks() -> Sequence[Check[Door]]:
    """In the order in which a fault shows first."""
    return (
        Check(
            "step",
            "a batch's gradient is the mean over target tokens, taken one example at a time",
            "a mean over sequences or positions; padding that counts; a mask that isn't there",
            step,
        ),
        Check(
            "loss",
            "the loss of a batch is the mean cross-entropy of its target tokens",
            "a division by another count: positions, or first labels that are never predicted",
            loss,
        ),
        Check(
            "accumulation",
            "4 x 2 and 8 x 1 micro-batches give the gradient of 1 x 8",
            "a mean per micro-batch: divide the sum of losses by the targets of the whole step",
            accumulation,
        ),
        Check(
            "no targets",
            "a micro-batch without a target adds nothing to a step",
            "a mean over no targets, which is 0 / 0: divide by the targets of the whole step",
            no_targets,
        ),
        Check(
            "label smoothing",
            "its mass stays on target tokens, however a step is cut",
            "smoothing over padding; a mean of its own beside num_items_in_batch",
            label_smoothing,
        ),
        Check(
            "evaluation",
            "batches of any size, a short last one too, give the same metrics",
            "a mean of batches' means: keep sums and counts, and divide once",
            evaluation,
        ),
        Check(
            "two processes",
            "2 processes give the gradient of 1",
            "a mean per rank, which DDP averages: divide by the targets of all ranks",
            two_processes,
        ),
        Check(
            "clipping",
            "the gradient of the whole step is clipped, on 1 process and on 2",
            "clipping after each micro-batch; a norm of sums that aren't divided yet",
            clipping,
        ),
        Check(
            "logged loss",
            "the loss that is logged is that of the step, whole and cut, on 1 and on 2 processes",
            "the last micro-batch's loss, or one rank's, or a mean of means",
            logged_loss,
        ),
        Check(
            "evaluation on processes",
            "2 processes give the metrics of 1",
            "a sampler that repeats examples to fill up; a mean of ranks",
            evaluation_on_processes,
        ),
        Check(
            "resume",
            "broken off in mid-epoch and resumed, a run ends where it would have ended",
            "examples of the epoch that come twice, or never: a loader that keeps no state",
            resume,
        ),
    )
