"""Checks of examples and batches, before any model."""

from collections.abc import Iterable
from copy import copy
from dataclasses import replace
from itertools import islice

import numpy as np
import torch

from everytoken.audit.check import Check, Finding, rows_apart, worst
from everytoken.audit.observe import Row, rows_of
from everytoken.audit.processes import EVALUATION, STEP, on_processes
from everytoken.audit.subject import EXAMPLES, Subject
from everytoken.batch import IGNORE_INDEX, Batch
from everytoken.data.epoch import BatchBudget
from everytoken.data.micro_batches import MicroBatches
from everytoken.data.objective import ExampleKey, length_of
from everytoken.data.sampler import StepPlan


def targets_hidden(subject: Subject) -> Finding:
    """Share of targets that are not the next input; or, where all is seen, that are visible."""
    if subject.tokenizer.labels:
        return Finding(0.0, note="its targets are classes, which no input shows", applies=False)
    matches = {shift: [0, 0] for shift in (0, 1, 2)}  # equal, compared
    shown = 0
    for index in range(len(subject.train)):
        example = subject.train.example(index)
        in_prefix = example.labels[: max(0, (example.prefix_length or 0) - 1)]
        shown += int((in_prefix != IGNORE_INDEX).sum())
        for shift, count in matches.items():
            labels = example.labels[: len(example.labels) - shift]
            is_target = labels != IGNORE_INDEX
            count[0] += int((labels == example.input_ids[shift:])[is_target].sum())
            count[1] += int(is_target.sum())
    share = {shift: equal / max(1, all_) for shift, (equal, all_) in matches.items()}
    if subject.sees_later:
        return Finding(share[0], 0.5, f"{share[0]:.0%} of the targets stand in the input")
    if shown:
        return Finding(1.0, 0.0, f"{shown} targets stand in a prefix, all of which is seen")
    if not matches[1][1]:
        return Finding(0.0, note="no example has a second input", applies=False)
    best = max(share, key=lambda shift: (share[shift], shift == 1))
    found = {
        0: "at their own place: not shifted",
        1: "one place on",
        2: "two places on: shifted twice",
    }
    note = f"{share[best]:.0%} of the targets are the input {found[best]}"
    return Finding(1 - share[1] if best == 1 else 1.0, 0.5, note)


def collation(subject: Subject) -> Finding:
    """Sequences of a micro-batch against the examples they were made of."""
    return _as_examples(subject.train, subject.train)


def shared_padding_id(subject: Subject) -> Finding:
    """The same, where padding has the id of the end-of-sequence token, or of a common target."""
    examples = (subject.train.example(i) for i in range(len(subject.train)))
    labels = np.concatenate([e.labels[e.labels != IGNORE_INDEX] for e in examples])
    findings = []
    for shared in (subject.tokenizer.special.eos, int(np.bincount(labels).argmax())):
        padded = copy(subject.train)
        padded.pad_id = shared
        findings.append(_as_examples(subject.train, padded))
    return worst(findings)


def _as_examples(dataset: MicroBatches, padded: MicroBatches) -> Finding:
    right = _rows(dataset)
    batch = padded[StepPlan(0, [list(range(len(dataset)))])][0]
    targets = sum(label != IGNORE_INDEX for _, labels, *_ in right for label in labels)
    finding = rows_apart(right, rows_of(batch))
    if batch.target_count != targets or int(batch.is_target.sum()) != targets:
        note = f"{int(batch.is_target.sum())} targets for {targets}"
        return worst(
            [finding, Finding(abs(batch.target_count - targets) / targets or 1.0, 0, note)]
        )
    return finding


def loader_workers(subject: Subject) -> Finding:
    """The first steps as loaded by the training process and by two others."""

    def steps(workers: int) -> list[list[Batch]]:
        subject.data.num_workers = workers
        stream = iter(subject.data.train_dataloader())
        return [step for step, _ in zip(stream, range(3), strict=False)]

    before = subject.data.num_workers
    here, there = steps(0), steps(2)
    subject.data.num_workers = before
    same = len(here) == len(there) and all(
        _equal(a, b)
        for one, other in zip(here, there, strict=True)
        for a, b in zip(one, other, strict=True)
    )
    return Finding(0.0 if same else 1.0, 0.0, "steps differ with data.num_workers=2")


def _equal(a: Batch, b: Batch) -> bool:
    pairs = [(a.input_ids, b.input_ids), (a.labels, b.labels), (a.lengths, b.lengths)]
    if a.source_ids is not None and b.source_ids is not None:
        pairs.append((a.source_ids, b.source_ids))
    return all(torch.equal(one, other) for one, other in pairs)


def draws(subject: Subject) -> Finding:
    """The sequences of the first step, corruption and all, on two ranks and on one."""
    return rows_apart(subject.whole_step.rows, on_processes(subject)[STEP].rows)


def evaluation_counts(subject: Subject) -> Finding:
    """The sequences that evaluation deals out on one rank and on three, against the split's."""
    right = _rows(subject.data.splits["val"])
    alone = rows_apart(right, subject.dealt_evaluation.rows)
    if alone.difference:
        return alone._replace(note=f"on 1 rank {alone.note}")
    three = rows_apart(right, on_processes(subject)[EVALUATION].rows)
    return three._replace(note=f"on 3 ranks {three.note}")


def epoch(subject: Subject) -> Finding:
    """The examples of a training epoch, in batches of four, and of the next."""
    data, count = subject.data, len(subject.train)
    before = data.batching
    data.batching = replace(before, budget=BatchBudget(None, 4))
    plans: Iterable[StepPlan] = islice(data.train_dataloader().sampler, 2 * -(-count // 4))
    steps = [sorted(i for part in plan.micro_batches for i in part) for plan in plans]
    data.batching = before
    first, second = steps[: -(-count // 4)], steps[-(-count // 4) :]
    dealt = sorted(i for step in first for i in step)
    if dealt != list(range(count)):
        note = f"an epoch deals out {len(dealt)} examples, {len(set(dealt))} different, of {count}"
        return Finding(1.0, 0.0, note)
    if count > 8 and first == second and data.curriculum_epochs < 2:
        return Finding(1.0, 0.0, "the order of an epoch repeats in the next")
    return Finding(0.0, 0.0)


def windows(subject: Subject) -> Finding:
    """A long text of random tokens, cut into items: what is left of it, put together again."""
    objective, fields = subject.data.objective, subject.data.fields
    if subject.tokenizer.labels:
        return Finding(0.0, note="its targets are classes and no tokens of texts", applies=False)
    if hasattr(objective, "encode"):
        return Finding(0.0, note="the examples of this task aren't texts alone", applies=False)
    restore = getattr(objective, "filled", None)
    if objective.has_source != (len(fields) == 2) and restore is None:
        return Finding(0.0, note="this task makes its sources itself", applies=False)
    size = 3 * int(subject.train.lengths.max()) + 1
    record = {field: [0] * size for field in fields}
    if objective.is_too_long(record) and objective.long != "windows":
        note = f"task.objective.long={objective.long}: texts beyond {objective.limit} are not whole"
        return Finding(0.0, note=note, applies=False)
    special = {*subject.tokenizer.special, *subject.tokenizer.sentinels}
    ordinary = [i for i in range(len(subject.tokenizer)) if i not in special]
    text = np.random.default_rng(0).choice(ordinary, size).tolist()
    found: list[int] = []
    for item in objective.items({field: text for field in fields}):
        kept = item.ids
        example = objective.example(item, ExampleKey(0, 0, 0))
        if restore is not None:
            kept = np.array(restore(example, example.labels.tolist()))
            kept = kept[length_of(item.context_ids) :]
        elif hasattr(objective, "learned"):
            kept = item.ids[1:]  # any of them is learned in some epoch
        elif not subject.sees_later:
            kept = example.labels[example.labels != IGNORE_INDEX]
        found += [i for i in kept.tolist() if i not in special]
    note = f"of a text of {size} tokens, {len(found)} are predicted, in another order or number"
    return Finding(float(found != text), 0.0, note)


def _rows(dataset: MicroBatches) -> list[Row]:
    """Every example of a split, made without sampler and collate."""
    examples = [dataset.example(i) for i in range(len(dataset))]
    columns = ([e.input_ids, e.labels, e.source_ids, e.classes] for e in examples)
    found = [[ids.tolist() for ids in row if ids is not None] for row in columns]
    for row, example in zip(found, examples, strict=True):
        row += [] if example.prefix_length is None else [[example.prefix_length]]
    return found


CHECKS = (
    Check(
        "targets hidden",
        "each target is the next input; or, if all is seen, is masked",
        "the objective's `example`: where labels are shifted, or inputs corrupted",
        targets_hidden,
    ),
    Check(
        "windows",
        "each token of a long text is a target once, or in one window",
        "the objective's `items`: where windows begin and end",
        windows,
    ),
    Check(
        "collation",
        "a micro-batch holds its examples, token for token, and no target on padding",
        "`collate`, and `MicroBatches`",
        collation,
    ),
    Check(
        "end of sequence",
        "it is learned also when padding has the same id",
        "`collate`: labels must be padded with IGNORE_INDEX, never found by the padding id",
        shared_padding_id,
    ),
    Check(
        "epoch",
        "each example is trained on once an epoch, in an order that changes",
        "the sampler of training: a last batch dropped or filled up, no shuffling",
        epoch,
    ),
    Check(
        "loader workers",
        "order and content of the steps don't depend on them",
        "randomness that isn't keyed by `ExampleKey`: global state, the clock, a worker's id",
        loader_workers,
    ),
)

WITH_PROCESSES = (
    Check(
        "draws",
        "2 ranks get the same examples and the same corruption as 1",
        "the sampler, or randomness in the objective that isn't keyed by `ExampleKey`: by rank",
        draws,
    ),
    Check(
        "evaluation counts",
        f"each of {EXAMPLES} examples is evaluated once, on 1 and on 3 ranks",
        "the sampler of evaluation: padded to equal shares, or without its last batch",
        evaluation_counts,
    ),
)
