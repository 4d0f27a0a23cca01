"""Checks of examples and batches, before any model."""

from copy import copy

import numpy as np
import torch

from everytoken.audit.check import Check, Finding, rows_apart, worst
from everytoken.audit.observe import observe_evaluation, rows_of
from everytoken.audit.processes import EVALUATION, PIECES, STEP, on_processes
from everytoken.audit.subject import EXAMPLES, Subject
from everytoken.batch import IGNORE_INDEX, Batch
from everytoken.data import MicroBatches
from everytoken.sampler import StepPlan


def targets_hidden(subject: Subject) -> Finding:
    """Share of targets that are not the next input; or, where all is seen, that are visible."""
    matches = {shift: [0, 0] for shift in (0, 1, 2)}  # equal, compared
    for index in range(len(subject.train)):
        example = subject.train.example(index)
        for shift, count in matches.items():
            labels = example.labels[: len(example.labels) - shift]
            is_target = labels != IGNORE_INDEX
            count[0] += int((labels == example.input_ids[shift:])[is_target].sum())
            count[1] += int(is_target.sum())
    share = {shift: equal / max(1, all_) for shift, (equal, all_) in matches.items()}
    if subject.sees_later:
        return Finding(share[0], 0.5, f"{share[0]:.0%} of the targets stand in the input")
    if not matches[1][1]:
        return Finding(0.0, note="no example has a second input", applies=False)
    best = max(share, key=lambda shift: (share[shift], shift == 1))
    found = {
        0: "at their own place: not shifted",
        1: "one place on",
        2: "two places on: shifted twice",
    }
    note = f"{share[best]:.0%} of the targets are the input {found[best]}"
    return Finding(1 - share[1], 0.5, note)


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
    indices = list(range(len(dataset)))
    examples = [dataset.example(i) for i in indices]
    columns = [[e.input_ids, e.labels, e.source_ids] for e in examples]
    right = [[ids.tolist() for ids in row if ids is not None] for row in columns]
    batch = padded[StepPlan(0, [indices])][0]
    targets = sum(int((e.labels != IGNORE_INDEX).sum()) for e in examples)
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
    split = subject.data.splits["val"]
    right = [row for b in subject.alone(range(len(split)), "val") for row in rows_of(b)]
    subject.cut(range(len(split)), "val", PIECES)
    observed = observe_evaluation(subject.module, 1, datamodule=subject.data)
    alone = rows_apart(right, observed.rows)
    if alone.difference:
        return alone._replace(note=f"on 1 rank {alone.note}")
    three = rows_apart(right, on_processes(subject)[EVALUATION].rows)
    return three._replace(note=f"on 3 ranks {three.note}")


CHECKS = (
    Check(
        "targets hidden",
        "each target is the next input; or, if all is seen, is masked",
        "the objective's `example`: where labels are shifted, or inputs corrupted",
        targets_hidden,
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
        "`collate`: labels must be padded with IGNORE_INDEX, and none be told by the padding id",
        shared_padding_id,
    ),
    Check(
        "loader workers",
        "order and content of the steps don't depend on them",
        "chance that isn't keyed by `ExampleKey`: a global random state, the clock, a worker's id",
        loader_workers,
    ),
    Check(
        "draws",
        "2 ranks get the same examples and the same corruption as 1",
        "the sampler, or chance in the objective that isn't keyed by `ExampleKey`: a rank's seed",
        draws,
    ),
    Check(
        "evaluation counts",
        f"each of {EXAMPLES} examples is evaluated once, on 1 and on 3 ranks",
        "the sampler of evaluation: padded to equal shares, or without its last batch",
        evaluation_counts,
    ),
)
