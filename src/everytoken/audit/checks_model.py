"""Checks of the model alone: what its hidden states may depend on."""

from dataclasses import replace

import torch
from torch import nn

from everytoken.audit.check import ROUNDING, Check, Finding, apart, gradients_apart, worst
from everytoken.audit.checks_loss import reference_losses
from everytoken.audit.influence import NO_INFLUENCE, Influence, influences
from everytoken.audit.subject import Subject, pad_anew
from everytoken.batch import IGNORE_INDEX, Batch, PaddingSide

BATCH_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


def contract(subject: Subject) -> Finding:
    """Shapes and finite values of hidden states and logits."""
    batch = subject.batch
    logits = subject.logits(batch)
    highest = max(int(batch.targets.max()), subject.target_ids - 1)
    if not logits.requires_grad:
        return Finding(float("inf"), 0, "the logits have no gradient: nothing would be learned")
    if logits.ndim != 2 or logits.shape[1] <= highest:
        shape, needed = tuple(logits.shape), (batch.target_count, highest + 1)
        return Finding(float("inf"), 0, f"head gives {shape}, and must give {needed} or more")
    bad = float((~logits.isfinite()).double().mean())
    return Finding(bad, 0, f"{bad:.0%} of the logits are NaN or infinite")


def repeatable(subject: Subject) -> Finding:
    """The logits of the same batch once more."""
    first, second = subject.logits(subject.batch), subject.logits(subject.batch)
    return Finding(apart(first, second), note="the logits of the same batch differ")


def batch_statistics(subject: Subject) -> Finding:
    """Layers whose output in training depends on the other tokens of the micro-batch."""
    names = [name for name, part in subject.model.named_modules() if isinstance(part, BATCH_NORMS)]
    return Finding(len(names), 0.0, f"{', '.join(names[:4])} mix the tokens of a micro-batch")


def padding_length(subject: Subject) -> Finding:
    """Logits and gradients of the loss with more padding."""
    wide = [pad_anew(subject.batch, extra=extra) for extra in {1, subject.room}]
    return worst(_apart(subject, batch, "wider padding") for batch in wide)


def padding_content(subject: Subject) -> Finding:
    """The same with any id in the padding."""
    generator = torch.Generator().manual_seed(0)
    findings = []
    for _ in range(2):
        garbage = torch.randint(len(subject.tokenizer), (97,), generator=generator)
        batch = pad_anew(subject.batch, extra=subject.room, garbage=garbage)
        findings.append(_apart(subject, batch, "other ids in the padding"))
    return worst(findings)


def padding_side(subject: Subject) -> Finding:
    """The same with padding on the other side; a model may refuse it."""
    other: PaddingSide = "left" if subject.batch.padding_side == "right" else "right"
    batch = pad_anew(subject.batch, extra=subject.room, side=other)
    try:
        subject.logits(batch)
    except ValueError as refusal:
        if "padding_side" not in str(refusal):
            raise  # no refusal but a fault
        return Finding(0.0, note=f"the model refuses it: {refusal}", applies=False)
    return _apart(subject, batch, f"padding on the {other}")


def _apart(subject: Subject, batch: Batch, what: str) -> Finding:
    right, found = subject.logits(pad_anew(subject.batch)), subject.logits(batch)
    logits = Finding(apart(right, found), note="the logits differ")
    targets = subject.batch.targets
    gradients = gradients_apart(
        *(subject.gradients(reference_losses(one, targets).sum()) for one in (right, found))
    )
    finding = worst([logits, gradients])
    return finding._replace(note=f"{finding.note} with {what}{_of_source(subject, batch)}")


def _of_source(subject: Subject, batch: Batch) -> str:
    """Whether the new padding of the source alone makes a difference, in words."""
    old = pad_anew(subject.batch)
    if batch.source_ids is None or batch.padding_side != old.padding_side:
        return ""
    mixed = replace(old, source_ids=batch.source_ids)
    return " (the source's)" if apart(subject.logits(old), subject.logits(mixed)) > ROUNDING else ""


def context(subject: Subject) -> Finding:
    """Whether each logit depends on its own input, another of its sequence, and its source."""
    influence = Influence(subject)
    for target, (row, position) in enumerate(influence.places):
        own = influence.inputs[row]
        others = own[:position] + (own[position + 1 :] if subject.sees_later else [])
        wanted = {"the input at their own place": [own[position]]}
        if others:
            wanted["any other input of their sequence"] = others
        if influence.sources:
            wanted["their source"] = influence.sources[row]
        for what, tokens in wanted.items():
            if not max(float(influence.on(target, token)) for token in tokens) > 0:
                note = f"the logits of position {position + 1} don't depend on {what}"
                return Finding(1.0, 0.0, note)
    return Finding(0.0, 0.0)


def isolation(subject: Subject) -> Finding:
    """Gradient of each logit with respect to other sequences."""
    findings = []
    for influence in influences(subject):
        for target, (row, _) in enumerate(influence.places):
            for kind, sequences in (("input", influence.inputs), ("source", influence.sources)):
                others = [i for r, ids in enumerate(sequences) if r != row for i in ids]
                seen = max((float(influence.on(target, i)) for i in others), default=0.0)
                note = f"a sequence's logits depend on another's {kind}"
                findings.append(Finding(seen, NO_INFLUENCE, note))
    return worst(findings)


def causality(subject: Subject) -> Finding:
    """Gradient of each logit with respect to later inputs; and logits without what comes later."""
    if subject.sees_later:
        return Finding(0.0, note="this task sees both sides", applies=False)
    findings = []
    for influence in influences(subject):
        for target, (row, position) in enumerate(influence.places):
            later = [float(influence.on(target, i)) for i in influence.later(target)]
            of = f" after a prefix of {n}" if (n := influence.prefixes[row]) else ""
            note = f"the logits of position {position + 1} depend on a later input{of}"
            findings.append(Finding(max(later, default=0.0), NO_INFLUENCE, note))
    whole = pad_anew(subject.batch, side="right")
    for kept in sorted({1, -(-whole.input_ids.shape[1] // 2), whole.input_ids.shape[1] - 1} - {0}):
        lengths = whole.lengths.clamp(max=kept)
        labels = whole.labels.clone()
        labels[:, kept:] = IGNORE_INDEX
        labels[:, 0] = whole.input_ids[:, 0]  # so that there is a target in every part
        begun = replace(
            whole,
            input_ids=whole.input_ids[:, :kept],
            labels=labels[:, :kept],
            lengths=lengths,
            input_count=int(lengths.sum()),
            target_count=int((labels != IGNORE_INDEX).sum()),
        )
        same = replace(whole, labels=labels, target_count=begun.target_count)
        if whole.prefix_lengths is not None:  # what follows it sees all of it: it ends there too
            prefixes = whole.prefix_lengths.clamp(max=kept)
            begun, same = (replace(part, prefix_lengths=prefixes) for part in (begun, same))
        side = subject.batch.padding_side
        right, found = (subject.logits(pad_anew(part, side=side)) for part in (same, begun))
        note = f"the first {kept} logits change if the sequence ends there"
        findings.append(Finding(apart(right, found), note=note))
    return worst(findings)


def every_parameter(subject: Subject) -> Finding:
    """Share of parameters whose gradient of a whole step is zero."""
    gradients = subject.whole_step.gradients
    dead = [name for name, gradient in gradients.items() if not gradient.any()]
    note = f"no gradient reaches {', '.join(dead[:4])}{' …' if len(dead) > 4 else ''}"
    return Finding(len(dead) / len(gradients), 0.0, note)


def finite(subject: Subject) -> Finding:
    """Logits and gradients in the precision of training, against float32."""
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(subject.precision)
    targets = subject.batch.targets
    right = subject.logits(subject.batch)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        found = subject.logits(subject.batch)
        sums = subject.module.target_sums(subject.batch)
        with torch.no_grad():  # layers may take another way then, as torch's own do
            evaluated = subject.logits(subject.batch)
    loss = reference_losses(found, targets).mean()
    for name, gradient in subject.gradients(loss).items():
        if not gradient.isfinite().all():
            return Finding(float("nan"), 0.1, f"the gradient of {name} is NaN or infinite")
    note = f"logits in {subject.precision} differ from those in float32, or are NaN"
    logits = [
        Finding(apart(right, found), 0.1, note),
        Finding(apart(right, evaluated), 0.1, f"{note}, in evaluation"),
    ]
    if subject.has_own_loss:  # what it is in float32 only it knows
        return worst(logits)
    total = float(reference_losses(found, targets).detach().sum())
    summed = abs(float(sums.loss.detach()) - total) / total
    return worst(
        [
            *logits,
            Finding(summed, 1e-4, f"the loss of logits in {subject.precision} isn't in float32"),
        ]
    )


CHECKS = (
    Check(
        "contract",
        "model(batch) is (M, D), model.head gives (M, V), all finite",
        "the model's `forward`: hidden[batch.is_target], and V tokens in its head",
        contract,
        is_basic=True,
    ),
    Check(
        "repeatable",
        "the same batch gives the same logits, without dropout",
        "dropout or other randomness that stays on in evaluation",
        repeatable,
        is_basic=True,
    ),
    Check(
        "batch statistics",
        "no layer takes statistics over a micro-batch while it trains",
        "BatchNorm: use LayerNorm or RMSNorm, whose statistics are one token's",
        batch_statistics,
    ),
    Check(
        "context",
        "each logit depends on its own input, others of its sequence, and its source",
        "an attention mask that lets nothing through (inverted?), a stack that isn't connected",
        context,
    ),
    Check(
        "isolation",
        "no logit depends on another sequence of the micro-batch, by gradient",
        "the mask between packed sequences; a norm over the batch; a reshape that mixes rows",
        isolation,
    ),
    Check(
        "causality",
        "no logit depends on what comes later, by gradient and by leaving it out",
        "the causal mask: tril(diagonal=0); convolutions, norms and lengths over positions",
        causality,
    ),
    Check(
        "padding length",
        "padding further changes no logit and no gradient",
        "a key-padding mask that is missing, wrong or inverted; a norm or mean over positions",
        padding_length,
    ),
    Check(
        "padding content",
        "what stands in the padding changes no logit and no gradient",
        "a key-padding mask that is missing, wrong or inverted, also in cross-attention",
        padding_content,
    ),
    Check(
        "padding side",
        "left and right padding give the same (or the model refuses one)",
        "position ids, which must count real tokens only; a recurrent layer, whose state padding "
        "moves: let the model refuse that side, by a ValueError that names padding_side",
        padding_side,
    ),
    Check(
        "parameters",
        "a step gives every parameter a gradient",
        "layers that `forward` doesn't use, detach, no_grad; freeze with requires_grad_(False)",
        every_parameter,
    ),
    Check(
        "precision",
        "in the chosen precision logits are finite, and the loss is in float32",
        "masks filled with -inf or -1e9 where float16 overflows; sums that should be in float32",
        finite,
    ),
)
