"""Checks of foreign batches: how they are put together, padded, and what of them is learned."""

from collections.abc import Sequence
from typing import Any

import torch

from everytoken.audit.check import Check, Finding, values_apart, worst
from everytoken.audit.foreign.batches import Padding, tensors
from everytoken.audit.foreign.door import Door
from everytoken.audit.foreign.influence import Influence
from everytoken.audit.foreign.roles import READ
from everytoken.audit.foreign.terms import NotApplicableError, Step, gradients_of, not_applicable

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
    return _padded(door, "other ids in the padding", extra=EXTRA, garbage=garbage)


def padding_side(door: Door) -> Finding:
    """A step with the padding on the other side."""
    padding = _padding(door)
    if not door.tells_padding:
        raise NotApplicableError("without a mask what stands on the other side is no padding")
    other = "left" if padding.side == "right" else "right"
    finding = _padded(door, f"padding on the {other}", without_first=door.is_shifted, side=other)
    promised = door.pads_both_sides or other == "right"
    if not promised and not finding.difference <= finding.limit:
        gap = finding.difference
        raise NotApplicableError(
            f"all is padded on the right; on the left it would be {gap:.1g} off"
        )
    return finding


def _padding(door: Door) -> Padding:
    if door.is_flat:
        raise NotApplicableError("the collate puts all examples into one row: there is no padding")
    padding = door.padding
    if padding is None or not any(value is not None for value in padding.values.values()):
        raise NotApplicableError("all of its examples are of one width: nothing is padded")
    return padding


def _padded(door: Door, what: str, *, without_first: bool = False, **other: Any) -> Finding:
    padding = _padding(door)
    alone = door.alone
    if without_first:  # nothing is read before it, or padding: then it would be learned from that
        alone = [door.without_first(batch) for batch in alone]
    right = door.step([door.padded(padding, alone)])
    found = door.step([door.padded(padding, alone, **other)])
    finding = apart(right, found)
    return finding._replace(note=f"{finding.note} with {what}")


def apart(right: Step, found: Step) -> Finding:
    """The gradients, and the loss of a step's one micro-batch, against another's."""
    findings = [gradients_of(right, found)]
    if len(right.losses) == len(found.losses) == 1:
        findings.append(values_apart({"loss": right.losses[0]}, {"loss": found.losses[0]}))
    return worst(findings)


def end_of_sequence(door: Door) -> Finding:
    """Share of examples whose last end-of-sequence token is no target."""
    eos = door.eos_id
    if eos is None:
        raise NotApplicableError("nothing says which token ends a sequence: give eos_id=…")
    influence = Influence.of(door)
    if influence.shift is None:
        raise NotApplicableError("its targets aren't the tokens of a sequence, one after the other")
    # What a decoder reads are its labels.
    place = door.inputs if influence.stream == influence.own else door.labels
    holding = learned = 0
    for batch in door.alone:
        found = tensors(batch)
        target = bool((door.targets(batch) & (found[door.labels] == eos)).any())
        if target or bool((found[place] == eos).any()):
            holding += 1
            learned += target
    if not holding:
        raise NotApplicableError(f"no example holds the end-of-sequence token, {eos}")
    missing = holding - learned
    note = f"of {holding} examples with token {eos} {missing} have it as no target"
    return Finding(missing / holding, 0.0, note)


def learned_part(door: Door) -> Finding:
    """Share of examples in which something else is learned than an answer."""
    name = door.settings.fields.get("learned")
    masks = (name,) if name else ("completion_mask", "assistant_masks")
    wrong: list[str] = []
    count = 0
    shift = Influence.of(door).shift or 0
    for example, batch in zip(door.examples, door.alone, strict=True):
        mask = next((example[m] for m in masks if _has(example, m)), None)
        found = tensors(batch)
        if found[door.labels].ndim < 2:
            raise NotApplicableError("its targets are no tokens")
        learned = door.targets(batch)[0]
        if mask is not None:
            wanted = torch.tensor([*mask], dtype=torch.bool)[shift:][: len(learned)]
            if wanted.all():
                continue
            count += 1
            places = (wanted != learned[: len(wanted)]).nonzero().flatten().tolist()
            if places:
                what = "is learned and should not be" if learned[places[0]] else "isn't learned"
                wrong.append(f"token {places[0] + shift + 1} of an example {what}")
        elif (answers := _answers(example)) and door.tokenizer is not None:
            ids = found[door.labels][0]
            if learned.all() or learned[1:].all():
                continue  # everything is learned, and meant to be
            count += 1
            runs = _runs(ids, learned)
            if mistake := _mistake(runs, answers, door.tokenizer):
                wrong.append(mistake)
    if not count:
        raise NotApplicableError("no example says which part of it is to be learned")
    return Finding(len(wrong) / count, 0.0, wrong[0] if wrong else "")


def _has(example: Any, name: Any) -> bool:
    return isinstance(example, dict) and example.get(name) is not None


def _answers(example: Any) -> list[str]:
    """What a chat or a prompt is answered with, as texts."""
    if not isinstance(example, dict):
        return []
    found = example.get("completion")
    if isinstance(found, str):
        return [found]
    talk = found if found is not None else example.get("messages") or []
    return [turn["content"] for turn in talk if turn.get("role") == "assistant"]


def _runs(ids: torch.Tensor, learned: torch.Tensor) -> list[list[int]]:
    """The unbroken runs of targets."""
    runs: list[list[int]] = [[]]
    for id_, is_target in zip(ids.tolist(), learned.tolist(), strict=True):
        if is_target:
            runs[-1].append(id_)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _mistake(runs: list[list[int]], answers: list[str], tokenizer: Any) -> str:
    """What is wrong with the parts that are learned, in words; "" for nothing."""
    if len(runs) != len(answers):
        return f"{len(runs)} parts are learned of {len(answers)} answers"
    for run, answer in zip(runs, answers, strict=True):
        text = tokenizer.decode(run, skip_special_tokens=False)
        found, wanted = ("".join(one.split()) for one in (text, answer))  # spaces get lost
        if not found.startswith(wanted):
            return f"{text!r:.50} is learned, and the answer is {answer!r:.50}"
        if found == wanted and run[-1] != tokenizer.eos_token_id:
            return f"the end of {text!r:.50} isn't learned"
    return ""


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
            "end of sequence",
            "the token that ends a sequence is learned, also where it is the padding's",
            "labels == pad_id set to -100: set padding by the mask, or give padding its own token",
            end_of_sequence,
        ),
        Check(
            "learned part",
            "of prompts and chats the answers are learned, whole and with their ends",
            "where a prompt's tokens end: at another place alone than with its answer",
            learned_part,
        ),
        Check(
            "padding length",
            "padding further changes no gradient and no loss",
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
