"""Checks of foreign models: what a target's loss depends on, parameters, precision."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from everytoken.audit.check import ROUNDING, Check, Finding, apart, worst
from everytoken.audit.checks_model import BATCH_NORMS
from everytoken.audit.foreign.batches import tensors, with_tensors
from everytoken.audit.foreign.borrowed import trainable
from everytoken.audit.foreign.checks_batch import apart as steps_apart
from everytoken.audit.foreign.door import Door
from everytoken.audit.foreign.influence import Influence
from everytoken.audit.foreign.reference import loss_sum
from everytoken.audit.foreign.terms import NotApplicableError
from everytoken.audit.influence import NO_INFLUENCE
from everytoken.errors import UserError, one_line


def repeatable(door: Door) -> Finding:
    """The same step once more."""
    try:
        first = door.step([door.alone[-1]])
    except (AssertionError, RuntimeError) as error:
        if not any(word in str(error) for word in ("CUDA", "NVIDIA", "cuda", "same device")):
            raise
        raise UserError(
            "the audit puts the model on the CPU: let batches follow it, "
            f".to(next(model.parameters()).device), and not {one_line(error):.80}"
        ) from error
    with door.other_randomness():
        again = door.step([door.alone[-1]])
    finding = steps_apart(first, again)
    if not any(bool(gradient.any()) for gradient in first.gradients.values()):
        return Finding(1.0, 0.0, "a step has no gradient: nothing is learned")
    return finding._replace(note=f"the same batch again: {finding.note}")


def targets_hidden(door: Door) -> Finding:
    """Influence of a target's own token, and whether there is any of the one before it."""
    influence = Influence.of(door)
    shift, own = influence.shift, influence.shares[0]
    if door.has_classes:
        raise NotApplicableError("its targets are classes, which no input shows")
    if shift is None:
        if door.settings.causal:
            note = f"the model reads {own:.0%} of the targets at their places, and next to them"
            return Finding(1.0, 0.0, note)
        return Finding(own, 0.5, f"{own:.0%} of the targets stand in the input")
    if shift == 2:
        share = influence.shares[2]
        return Finding(share, 0.0, f"{share:.0%} of the targets are two places on: shifted twice")
    findings = [Finding(0.0, NO_INFLUENCE)]
    for (row, column), (read, _) in zip(influence.targets, influence.strengths, strict=True):
        place = column + shift
        if place < read.shape[1]:
            note = f"the loss of target {column + 1} depends on that very token in the input"
            findings.append(Finding(float(read[row, place]), NO_INFLUENCE, note))
        if place and not _begins(influence.documents, row, place) and not read[row, place - 1] > 0:
            note = f"the loss of target {column + 1} doesn't depend on the token just before it"
            findings.append(Finding(1.0, 0.0, note))
    return worst(findings)


def _begins(numbers: Tensor | None, row: int, place: int) -> bool:
    """True if a place is the first of its document."""
    if numbers is None or place >= numbers.shape[1]:
        return False
    return bool(numbers[row, place] != numbers[row, place - 1])


def causality(door: Door) -> Finding:
    """Influence of what comes after a target; and its loss where the sequence ends with it."""
    if door.settings.causal is False:
        raise NotApplicableError("causal=False: this task sees both sides")
    influence = Influence.of(door)
    shift = influence.shift
    if shift is None and not door.settings.causal:
        raise NotApplicableError(
            "its targets aren't the next tokens: nothing says that it is causal"
        )
    shift = shift or 0
    findings = [Finding(0.0, NO_INFLUENCE)]
    for (row, column), (read, _) in zip(influence.targets, influence.strengths, strict=True):
        later = read[row, column + shift + 1 :]
        if read.shape == influence.is_real.shape:  # padding is for other checks
            later = later[influence.is_real[row, column + shift + 1 :]]
        seen = float(later.max()) if later.numel() else 0.0
        note = f"the loss of target {column + 1} depends on a later token"
        findings.append(Finding(seen, NO_INFLUENCE, note))
    if influence.stream == influence.own and not door.is_flat:
        findings.append(_without_the_rest(door, shift))
    return worst(findings)


def _without_the_rest(door: Door, shift: int) -> Finding:
    """The loss of one target in its sequence, and where the sequence ends there."""
    batch = door.alone[-1]
    columns = door.targets(batch)[0].nonzero().flatten().tolist()
    columns = [column for column in columns if column or shift]
    if not columns:
        return Finding(0.0)
    column = columns[len(columns) // 2]
    whole = door.only(batch, 0, column)
    found = tensors(whole)
    width = found[door.labels].shape[1]
    begun = with_tensors(
        whole, {p: t[:, : column + 1] for p, t in found.items() if t.shape[1:2] == (width,)}
    )
    finding = steps_apart(door.step([whole]), door.step([begun]))
    note = f"target {column + 1}: {finding.note} if the sequence ends there"
    return finding._replace(note=note)


def isolation(door: Door) -> Finding:
    """Influence of other sequences of the batch."""
    influence = Influence.of(door)
    if len(influence.inputs) < 2:
        raise NotApplicableError("all examples are in one row")
    findings = []
    for (row, column), grids in zip(influence.targets, influence.strengths, strict=True):
        for grid in grids:
            others = torch.cat([grid[:row], grid[row + 1 :]])
            note = f"the loss of target {column + 1} of a sequence depends on another sequence"
            findings.append(Finding(float(others.max()), NO_INFLUENCE, note))
    return worst(findings)


def documents(door: Door) -> Finding:
    """Influence of other documents of a row."""
    influence = Influence.of(door)
    told, ended = influence.documents, influence.ended
    if told is None and ended is None:
        raise NotApplicableError("no row holds several documents, or nothing says where they begin")
    numbers = told if told is not None else ended
    assert numbers is not None
    finding = _seen_by_others(influence, numbers)
    if told is None and not door.settings.isolated and not finding.difference <= finding.limit:
        raise NotApplicableError(
            f"texts that end with token {door.eos_id} share rows and see each other; nothing "
            "says that they shouldn't: isolated=True does"
        )
    return finding


def _seen_by_others(influence: Influence, numbers: Tensor) -> Finding:
    findings = [Finding(0.0, NO_INFLUENCE)]
    for (row, column), (read, _) in zip(influence.targets, influence.strengths, strict=True):
        shift = influence.shift
        place = column if shift is None else column + shift
        if shift and _begins(numbers, row, place):
            note = f"target {column + 1} is the first token of a document, learned from another's"
            findings.append(Finding(1.0, 0.0, note))
            continue
        others = read[row][numbers[row] != numbers[row, column]]
        seen = float(others.max()) if others.numel() else 0.0
        note = f"the loss of target {column + 1} of a document depends on another document"
        findings.append(Finding(seen, NO_INFLUENCE, note))
    return worst(findings)


def parameters(door: Door) -> Finding:
    """Share of trainable parameters that a step gives no gradient, or no optimizer has."""
    gradients = door.whole.gradients
    dead = [name for name, gradient in gradients.items() if not gradient.any()]
    given = door.optimized()
    left = [] if given is None else [name for name in trainable(door.model) if name not in given]
    if dead:
        note = f"no gradient reaches {_some(dead)}"
    else:
        note = f"the optimizer isn't given {_some(left)}, which requires_grad" if left else ""
    return Finding(len({*dead, *left}) / len(gradients), 0.0, note)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def batch_statistics(door: Door) -> Finding:
    """Layers that are trained, and whose output then depends on all tokens of the batch."""
    names = [
        name
        for name, part in door.model.named_modules()
        if isinstance(part, BATCH_NORMS)
        and (any(p.requires_grad for p in part.parameters()) or not part.affine)
    ]
    return Finding(len(names), 0.0, f"{_some(names)} mixes the tokens of a batch")


def finite(door: Door) -> Finding:
    """Loss and gradients under autocast of the precision of training, against float32."""
    batch = door.batch(range(len(door.examples)))
    is_half = door.settings.precision == "fp16"
    evaluated: dict[str, float] = {}
    with torch.autocast("cpu", torch.float16 if is_half else torch.bfloat16):
        found = door.step([batch])
        # Layers may take another way then; torch's own fused ones can't on a CPU alone.
        with suppress(NotApplicableError), _without_fused_attention():
            evaluated = door.evaluate(len(door.held_out))
        exact = _loss_of_logits(door, batch)
    for name, gradient in found.gradients.items():
        if not gradient.isfinite().all():
            return Finding(float("nan"), 0.1, f"the gradient of {name} is NaN or infinite")
    for name, value in evaluated.items():
        if "loss" in name and not abs(value) < float("inf"):
            return Finding(float("nan"), 0.1, f"{name} of an evaluation is {value}")
    right = door.whole
    gap = apart(_tensor(right.losses), _tensor(found.losses))
    way = sum(float(g.square().sum()) for g in right.gradients.values()) ** 0.5
    off = sum(
        float((gradient - right.gradients[name]).square().sum())
        for name, gradient in found.gradients.items()
    )
    kind = "float16" if is_half else "bfloat16"
    findings = [Finding(gap, 0.02, f"the loss in {kind} is another than in float32")]
    if not is_half:  # without a scaler small gradients vanish there
        note = f"the gradient in {kind} is another than in float32"
        findings.append(Finding(off**0.5 / way, 0.25, note))
    usual = _loss_of_logits(door, batch)
    if exact and usual and found.losses and abs(right.losses[0] / usual - 1) < ROUNDING:
        gap = abs(found.losses[0] / exact - 1)
        findings.append(Finding(gap, 1e-3, f"the loss of logits in {kind} isn't in float32"))
    return worst(findings)


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _loss_of_logits(door: Door, batch: object) -> float | None:
    """The loss by its definition, in float64, of whatever logits there are."""
    if door.smoothing is None:
        return None
    with suppress(NotApplicableError):
        total, count = loss_sum(door, batch, door.smoothing)
        return total / count
    return None


def _tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def checks() -> Sequence[Check[Door]]:
    """In the order in which a fault shows first."""
    return (
        Check(
            "targets hidden",
            "no target stands in what it is predicted from, and the token before it does",
            "labels that aren't shifted, or twice: models of transformers shift them themselves",
            targets_hidden,
        ),
        Check(
            "causality",
            "no loss depends on what comes after its target",
            "the causal mask: tril(diagonal=0); convolutions, norms and lengths over positions",
            causality,
        ),
        Check(
            "isolation",
            "no loss depends on another sequence of the batch",
            "a norm over the batch; a reshape that mixes rows",
            isolation,
        ),
        Check(
            "documents",
            "of documents in one row none is seen by another",
            "packing without a mask between documents: position_ids that the attention ignores",
            documents,
        ),
        Check(
            "parameters",
            "a step gives every trainable parameter a gradient, and the optimizer has it",
            "layers that `forward` doesn't use, detach, no_grad; what the optimizer is given",
            parameters,
        ),
        Check(
            "batch statistics",
            "no layer takes statistics over a batch while it trains",
            "BatchNorm: use LayerNorm or RMSNorm, whose statistics are one token's",
            batch_statistics,
        ),
        Check(
            "precision",
            "under autocast loss and gradients are finite, and near float32's",
            "masks filled with -inf or -1e9; sums that should be in float32",
            finite,
        ),
    )
