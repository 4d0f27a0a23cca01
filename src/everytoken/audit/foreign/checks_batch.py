"""Checks of foreign batches: how they are put together, padded, and what of them is learned."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch

from everytoken.audit.check import Check, Finding, values_apart, worst
from everytoken.audit.foreign.batches import Padding, tensors
from everytoken.audit.foreign.door import Door
from everytoken.audit.foreign.influence import Influence
from everytoken.audit.foreign.roles import READ
from everytoken.audit.foreign.terms import NotApplicableError, Step, gradients_of, not_applicable

METRICS = ("loss", "acc", "f1", "ppl", "perplexity")
"""Parts of the names of what may be logged of a step, and has nothing to do with padding."""

ROUNDING_OF_LOGS = 2e-4
"""transformers logs a loss with four places."""

EXTRA = 5
"""Columns of padding more than are needed."""


def collation(door: Door) -> Finding:
    """Rows of a batch that aren't the examples, padded."""
    if door.is_random:
        return not_applicable("the collate draws at random: each batch is another")
    if door.is_flat:
        return not_applicable("the collate puts all examples into one row")
    padding = door.padding
    if padding is None:
        return not_applicable("all of its examples are of one width: nothing is padded")
    whole = tensors(door.batch(range(len(door.examples))))
    for number, alone in enumerate(door.alone):
        own = tensors(alone)
        for place in padding.values:
            row, wanted = whole[place][number], own[place][0]
            width = len(wanted)
            if not torch.equal(row[:width] if padding.side == "right" else row[-width:], wanted):
                name = ".".join(map(str, place))
                return Finding(1.0, 0.0, f"{name} of a batch isn't that of its examples")
    return Finding(0.0, 0.0)


def padding_length(door: Door) -> Finding:
    """A step with more padding."""
    return _padded(door, "wider padding", extra=EXTRA)


def padding_content(door: Door) -> Finding:
    """A step with other ids in the padding."""
    garbage = {}
    for place, ids in tensors(door.batch(range(len(door.examples)))).items():
        is_read = place == door.inputs or (place[-1:] and place[-1] in READ)
        if is_read and not ids.is_floating_point() and place != door.labels:
            order = torch.randperm(ids.numel(), generator=torch.Generator().manual_seed(0))
            garbage[place] = ids.flatten()[order][:97]
    if not garbage:
        raise NotApplicableError("its inputs are no token ids")
    finding = _padded(door, "other ids in the padding", extra=EXTRA, garbage=garbage)
    if not door.tells_padding and not finding.difference <= finding.limit:
        raise NotApplicableError("without a mask it is its id by which a model can tell padding")
    return finding


def padding_side(door: Door) -> Finding:
    """A step with the padding on the other side, and more of it."""
    padding = _padding(door)
    if not door.tells_padding:
        raise NotApplicableError("without a mask what stands on the other side is no padding")
    other = "left" if padding.side == "right" else "right"
    what = f"padding on the {other}"
    finding = _padded(door, what, without_first=_loss_shifts(door), side=other, extra=EXTRA)
    promised = door.pads_both_sides or other == "right"
    if not promised and not finding.difference <= finding.limit:
        gap = finding.difference
        raise NotApplicableError(
            f"all is padded on the right; on the left it would be {gap:.1g} off"
        )
    return finding


def _loss_shifts(door: Door) -> bool:
    with suppress(NotApplicableError):
        return Influence.of(door).loss_shifts
    return False


def _padding(door: Door) -> Padding:
    if door.is_flat:
        raise NotApplicableError("the collate puts all examples into one row: there is no padding")
    padding = door.padding
    if padding is None or not any(value is not None for value in padding.values.values()):
        raise NotApplicableError("all of its examples are of one width: nothing is padded")
    return padding


def _padded(door: Door, what: str, *, without_first: bool = False, **other: Any) -> Finding:
    padding = _padding(door)
    alone = _with_room(door, padding)
    if without_first:  # nothing is read before it, or padding: then it would be learned from that
        alone = [door.without_first(batch) for batch in alone]
    right = door.step([door.padded(padding, alone)])
    found = door.step([door.padded(padding, alone, **other)])
    finding = worst([apart(right, found), *_logged_apart(right, found)])
    return finding._replace(note=f"{finding.note} with {what}")


def _logged_apart(right: Step, found: Step) -> list[Finding]:
    names = [name for name in right.logged if any(part in name.lower() for part in METRICS)]
    both = [
        {name: step.logged.get(name, float("nan")) for name in names} for step in (right, found)
    ]
    return [values_apart(*both)._replace(limit=ROUNDING_OF_LOGS)] if names else []


def _with_room(door: Door, padding: Padding) -> list[Any]:
    """Examples that can be padded further and are no wider than the longest, if there are some.

    A model may have no more positions than that.
    """

    def width(batch: Any) -> int:
        return max(t.shape[1] for place, t in tensors(batch).items() if place in padding.values)

    widths = [width(batch) for batch in door.alone]
    count = sum(own + EXTRA <= max(widths) for own in widths)
    return door.alone[:count] if widths == sorted(widths) and count > 2 else door.alone


def apart(right: Step, found: Step) -> Finding:
    """The gradients, and the loss of a step's one micro-batch, against another's."""
    findings = [gradients_of(right, found)]
    if len(right.losses) == len(found.losses) == 1:
        findings.append(values_apart({"loss": right.losses[0]}, {"loss": found.losses[0]}))
    return worst(findings)


def epoch(door: Door) -> Finding:
    """Examples that two epochs leave out or repeat; and their order, where it is to differ."""
    first, second = door.dealt(0), door.dealt(1)
    left = {*range(first.length)} - {*first.numbers}
    extra = len(first.numbers) - len({*first.numbers})
    if extra:
        note = f"{extra} of an epoch's {len(first.numbers)} examples come again in it"
        return Finding(extra / first.length, 0.0, note)
    same = [*first.numbers] == [*second.numbers]
    never = left - {*second.numbers} if len(left) <= first.dropped else left
    if never and (same or len(left) > first.dropped):
        note = f"{len(never)} of {first.length} examples aren't in an epoch"
        return Finding(len(never) / first.length, 0.0, note)
    if same and first.is_shuffled and len(first.numbers) > 3:
        return Finding(1.0, 0.0, "the second epoch has the order of the first")
    return Finding(0.0, 0.0)


def checks() -> Sequence[Check[Door]]:
    """In the order in which a fault shows first."""
    return (
        Check(
            "collation",
            "a batch is its examples, padded",
            "the collate: what it cuts off, and where a mask says real",
            collation,
        ),
        Check(
            "epoch",
            "an epoch has every example once, and another order than the one before if shuffled",
            "the sampler: what it drops and repeats; set_epoch, without which it draws the same",
            epoch,
        ),
        Check(
            "padding length",
            "padding further changes no gradient, and no loss or accuracy",
            "an attention mask that isn't handed on; a mean over positions; labels of padding",
            padding_length,
        ),
        Check(
            "padding content",
            "what stands in the padding changes no gradient and no loss",
            "an attention mask that is missing, wrong or inverted; labels made of inputs",
            padding_content,
        ),
        Check(
            "padding side",
            "left and right padding give the same",
            "position ids, which must count real tokens only: give position_ids with the mask",
            padding_side,
        ),
    )
