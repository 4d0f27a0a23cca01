"""Checks of foreign targets: which parts of an example are learned, and whether any id can be."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from everytoken.audit.check import Check, Finding
from everytoken.audit.foreign.answers import (
    answers_of,
    mistake_in_answers,
    mistake_in_tags,
    tagged,
)
from everytoken.audit.foreign.batches import tensors, with_tensors
from everytoken.audit.foreign.door import Door
from everytoken.audit.foreign.influence import Influence, lookups
from everytoken.audit.foreign.terms import NotApplicableError, spread

IDS, ROWS = 512, 64
"""How many ids are tried as targets at most; how many in a step."""


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
    """Share of examples in which something else is learned than an answer, or a word's tag."""
    shift = Influence.of(door).shift or 0
    if tensors(door.alone[0])[door.labels].ndim < 2:
        raise NotApplicableError("its targets are no tokens")
    found = [
        _mistake(door, example, batch, shift)
        for example, batch in zip(door.examples, door.alone, strict=True)
    ]
    told = [mistake for mistake in found if mistake is not None]
    if not told:
        raise NotApplicableError("no example says which part of it is to be learned")
    wrong = [mistake for mistake in told if mistake]
    return Finding(len(wrong) / len(told), 0.0, wrong[0] if wrong else "")


def _mistake(door: Door, example: Any, batch: Any, shift: int) -> str | None:
    """What is learned wrongly of an example, in words; "" for nothing, None if nobody knows."""
    fields = door.settings.fields
    name = fields.get("learned")
    masks = (name,) if name else ("completion_mask", "assistant_masks")
    mask = next((example[m] for m in masks if _has(example, m)), None)
    found = tensors(batch)
    labels, learned = found[door.labels][0], door.targets(batch)[0]
    if mask is not None:
        return _mistake_by_mask(torch.tensor([*mask], dtype=torch.bool)[shift:], learned, shift)
    if door.tokenizer is None:
        return None
    inputs = found[door.inputs][0]
    if answers := answers_of(example):
        if learned.all() or learned[1:].all():
            return None  # everything is learned, and meant to be
        return mistake_in_answers(inputs, labels, learned, answers, door.tokenizer)
    if words := tagged(example, fields):
        return mistake_in_tags(inputs, labels, learned, words, door.tokenizer)
    return None


def _mistake_by_mask(wanted: Tensor, learned: Tensor, shift: int) -> str | None:
    wanted = wanted[: len(learned)]
    if wanted.all():
        return None
    places = (wanted != learned[: len(wanted)]).nonzero().flatten().tolist()
    if not places:
        return ""
    what = "is learned and should not be" if learned[places[0]] else "isn't learned"
    return f"token {places[0] + shift + 1} of an example {what}"


def _has(example: Any, name: Any) -> bool:
    return isinstance(example, dict) and example.get(name) is not None


def vocabulary(door: Door) -> Finding:
    """Share of ids of which nothing is learned if they are targets; each has a row of its own."""
    if door.is_flat or tensors(door.alone[0])[door.labels].is_floating_point():
        raise NotApplicableError("its targets are numbers, or all of them in one row")
    index, column = _a_target(door)
    ids = [id_ for id_ in _ids(door) if id_ not in door.ignored]
    unseen: list[int] = []
    for first in range(0, len(ids), ROWS):
        some = ids[first : first + ROWS]
        with lookups(door.model) as looked_up:
            door.step([_relabelled(door, index, column, some)])
        leaves = _of_rows([leaf.grad for _, leaf in looked_up if leaf.grad is not None], len(some))
        if not leaves:
            raise NotApplicableError("the model looks its inputs up in no nn.Embedding")
        has = torch.stack([leaf.reshape(len(some), -1).any(1) for leaf in leaves]).any(0).tolist()
        unseen += [id_ for id_, is_seen in zip(some, has, strict=True) if not is_seen]
    note = f"{unseen[0]} as a target: nothing is learned of it" if unseen else ""
    return Finding(len(unseen) / len(ids), 0.0, note)


def _of_rows(leaves: Sequence[torch.Tensor], count: int) -> list[torch.Tensor]:
    """Those of so many rows, (B, T, D); or, of a model that strips padding, of their tokens."""
    rows = [leaf for leaf in leaves if leaf.ndim == 3 and len(leaf) == count]
    return rows or [leaf for leaf in leaves if leaf.ndim == 2 and not len(leaf) % count]


def _a_target(door: Door) -> tuple[int, tuple[int, ...]]:
    """Which example has a target, and where in its row it is."""
    for index, batch in enumerate(door.alone):
        target = door.targets(batch)[0].clone()
        if target.ndim == 0:
            return index, ()
        if Influence.of(door).loss_shifts:
            target[0] = False  # nothing was read before it
        if target.any():
            return index, (int(target.nonzero()[0]),)
    raise NotApplicableError("no example has a target")


def _relabelled(door: Door, index: int, column: tuple[int, ...], ids: Sequence[int]) -> Any:
    """A batch with a row for each id, its only target."""
    batch = door.copies(index, len(ids))
    labels = torch.full_like(tensors(batch)[door.labels], door.ignored_label)
    labels[(slice(None), *column)] = torch.tensor(ids, dtype=labels.dtype)
    return with_tensors(batch, {door.labels: labels})


def _ids(door: Door) -> list[int]:
    """All that can be targets, or many of them: the first, those of the examples, and others."""
    labels = torch.cat([tensors(batch)[door.labels].flatten() for batch in door.alone])
    seen = labels[
        ~torch.isin(labels, torch.tensor([*door.ignored], dtype=labels.dtype)) & (labels >= 0)
    ]
    count = int(seen.max()) + 1
    with suppress(Exception), torch.no_grad():  # how the model is called may be the user's own
        count = max(count, door.logits(door.alone[0]).shape[-1])
    if count <= IDS:
        return [*range(count)]
    special = [id_ for id_ in getattr(door.tokenizer, "all_special_ids", ()) if 0 <= id_ < count]
    some = [*range(ROWS), *special, *seen.tolist()[:IDS], *spread(count, IDS)]
    return [*dict.fromkeys(some)][:IDS]


def checks() -> Sequence[Check[Door]]:
    """In the order in which a fault shows first."""
    return (
        Check(
            "end of sequence",
            "the token that ends a sequence is learned, also where it is the padding's",
            "labels == pad_id set to -100: set padding by the mask, or give padding its own token",
            end_of_sequence,
        ),
        Check(
            "learned part",
            "answers of prompts and chats are learned, whole and with their ends; tags of words",
            "where a prompt's tokens end: at another place alone than with its answer",
            learned_part,
        ),
        Check(
            "vocabulary",
            "every token (or class) counts as a target",
            "an ignore_index that is also the id of a token; a weight of zero",
            vocabulary,
        ),
    )
