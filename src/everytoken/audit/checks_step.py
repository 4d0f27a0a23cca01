"""Checks of the training step and of evaluation, however they are cut."""

import torch

from everytoken.audit.check import Check, Finding, gradients_apart, values_apart, worst
from everytoken.audit.checks_loss import reference_losses, reference_sum
from everytoken.audit.observe import Observed, loader, observe_evaluation, observe_step
from everytoken.audit.processes import (
    CLIP_NORM,
    CLIPPED_STEP,
    EVALUATION,
    SPLIT_STEP,
    STEP,
    UNEVEN_EVALUATION,
    UNEVEN_STEP,
    on_processes,
)
from everytoken.audit.subject import Subject
from everytoken.decoding.generate import beginnings
from everytoken.training.answers import limit_for


def step(subject: Subject) -> Finding:
    """The step as one micro-batch against examples one by one, without any padding."""
    batches = subject.alone(subject.first_step)
    count = sum(batch.target_count for batch in batches)
    smoothing, z_loss = subject.module.label_smoothing, subject.module.z_loss
    total: dict[str, torch.Tensor] = {}
    for batch in batches:
        loss = reference_sum(subject, batch, smoothing, z_loss) / count
        for name, gradient in subject.gradients(loss).items():
            total[name] = total[name] + gradient if name in total else gradient
    return gradients_apart(total, subject.whole_step.gradients)


def accumulation(subject: Subject) -> Finding:
    """The step in several micro-batches."""
    observed = observe_step(subject.module, 1, train_dataloaders=loader([subject.uneven_step()]))
    return _same_step(subject.whole_step, observed)


def clipping(subject: Subject) -> Finding:
    """The step in several micro-batches and on two processes, clipped hard."""
    whole, parts = (
        observe_step(subject.module, 1, CLIP_NORM, train_dataloaders=loader([micro_batches]))
        for micro_batches in ([subject.micro_batch(subject.first_step)], subject.uneven_step())
    )
    length = sum(float(gradient.square().sum()) for gradient in whole.gradients.values()) ** 0.5
    unclipped = Finding(abs(length / CLIP_NORM - 1), 1e-2, f"a norm of {length:.2g} is left")
    here = worst([unclipped, _same_step(whole, parts)])
    if not here.difference <= here.limit:
        return here
    return worst([here, _same_step(whole, on_processes(subject)[CLIPPED_STEP])])


def two_processes(subject: Subject) -> Finding:
    """The step on two processes; and on those that split matrices, if it is to be trained so."""
    observed = on_processes(subject)
    parts = [part for part in (STEP, UNEVEN_STEP, SPLIT_STEP) if part in observed]
    return worst(_same_step(subject.whole_step, observed[part]) for part in parts)


def _same_step(right: Observed, observed: Observed) -> Finding:
    logged = ("train/loss", "train/accuracy", "train/gradient_norm")
    values = ({name: o.values[name] for name in logged} for o in (right, observed))
    return worst([gradients_apart(right.gradients, observed.gradients), values_apart(*values)])


def empty_micro_batch(subject: Subject) -> Finding:
    """A step with fillers, and one of nothing else."""
    filler = subject.micro_batch([])
    whole = subject.micro_batch(subject.first_step)
    with_fillers, alone = (
        observe_step(subject.module, 1, train_dataloaders=loader([micro_batches]))
        for micro_batches in ([filler, whole, filler], [filler, filler])
    )
    largest = max(float(gradient.abs().max()) for gradient in alone.gradients.values())
    loss = alone.values["train/loss"]
    return worst(
        [
            _same_step(subject.whole_step, with_fillers),
            Finding(largest, 0.0, f"a filler alone has a gradient of {largest:.2g}"),
            Finding(abs(loss), 0.0, f"a filler alone has a loss of {loss:.2g}"),
        ]
    )


@torch.no_grad()
def metrics(subject: Subject) -> Finding:
    """Metrics of examples as one micro-batch, after other examples, against them one by one."""
    module, answered = subject.module, subject.answered
    total, hits, count, exact = 0.0, 0, 0, 0
    for batch in subject.alone(range(len(answered)), answered):
        logits, targets = subject.logits(batch), batch.targets
        total += float(reference_losses(logits, targets).sum())
        is_choice = targets.ndim == 2
        found = (
            ((logits > 0) == (targets == 1)).all(-1) if is_choice else logits.argmax(-1) == targets
        )
        hits += int(found.sum())
        count += batch.target_count
        if module.max_new_tokens is not None:
            wanted = [i for i in targets.tolist() if i != subject.tokenizer.special.eos]
            limit = limit_for(batch, module.max_new_tokens)
            (answer,) = module.generate(beginnings(batch), limit)
            exact += module.decode(answer) == module.decode(wanted)
    right = {"loss": total / count, "accuracy": hits / count}
    if module.max_new_tokens is not None:
        right["exact_match"] = exact / len(answered)
    findings = []
    whole = [subject.micro_batch(list(range(len(answered))), answered)]
    for split in ("val", "test"):
        others = loader(subject.uneven_evaluation()[:1])
        observe_evaluation(module, 1, split, dataloaders=others)  # nothing of it may remain
        found = observe_evaluation(module, 1, split, dataloaders=loader(whole)).values
        finding = values_apart(right, {name: found[name] for name in right})
        findings.append(finding._replace(note=f"{split}/{finding.note}"))
    return worst(findings)


def aggregation(subject: Subject) -> Finding:
    """The same metrics over several micro-batches."""
    parts = loader(subject.uneven_evaluation())
    observed = observe_evaluation(subject.module, 1, dataloaders=parts)
    return values_apart(subject.whole_evaluation.values, observed.values)


def three_processes(subject: Subject) -> Finding:
    """The same metrics on three processes, and those of what the data module deals out."""
    observed = on_processes(subject)
    return worst(
        [
            values_apart(subject.whole_evaluation.values, observed[UNEVEN_EVALUATION].values),
            values_apart(subject.dealt_evaluation.values, observed[EVALUATION].values),
        ]
    )


CHECKS = (
    Check(
        "step",
        "the gradient is the mean over target tokens, taken one example at a time",
        "`training_step`: the one division, by the target tokens of the step",
        step,
    ),
    Check(
        "accumulation",
        "3 micro-batches give the gradient and logged loss of one",
        "`training_step`: a mean per micro-batch, or a loss logged of the last one only",
        accumulation,
    ),
    Check(
        "empty micro-batch",
        "a filler adds exactly nothing to loss and gradient",
        "`target_sums` with no target: 0 / 0, or a loss that padding adds to",
        empty_micro_batch,
    ),
    Check(
        "metrics",
        "validation and test give the metrics of examples taken one at a time",
        "`evaluation_step`: positions that count and are no targets, such as padding",
        metrics,
    ),
    Check(
        "metric aggregation",
        "3 micro-batches give the metrics of one",
        "a metric that keeps a mean of batches instead of a sum and a count",
        aggregation,
    ),
)

WITH_PROCESSES = (
    Check(
        "two processes",
        "2 processes (DDP) give the gradient and logged loss of 1",
        "`training_step`: a mean per rank; counts and logged sums must be added over ranks",
        two_processes,
    ),
    Check(
        "clipping",
        "the gradient of the whole step is clipped, on 1 and on 2 processes",
        "`training_step`: clipping before the last micro-batch, or before ranks have exchanged",
        clipping,
    ),
    Check(
        "three processes",
        "3 processes give the metrics of 1",
        "metric states that aren't added over ranks (dist_reduce_fx), or a mean of ranks",
        three_processes,
    ),
)
