"""Checks of classes, before any model: what is learned of a text is what the corpus says of it."""

from itertools import compress, islice

from everytoken.audit.check import Check, Finding
from everytoken.audit.subject import EXAMPLES, Subject
from everytoken.batch import IGNORE_INDEX
from everytoken.data.fields import labels
from everytoken.data.objective import ExampleKey


def classes(subject: Subject) -> Finding:
    """Share of texts that have other classes to learn than in the corpus, or not in one place."""
    if "labels" not in subject.data.fields:
        return Finding(0.0, note="this task has no class for a text", applies=False)
    objective, names = subject.data.objective, subject.tokenizer.labels
    texts = [*islice(subject.data.source.examples("train"), EXAMPLES)]
    records = objective.encode(texts, lambda i: f"train example {i}")  # pyright: ignore
    wrong = count = 0
    note = ""
    for text, record in zip(texts, records, strict=True):
        for item in objective.items(record):
            example = objective.example(item, ExampleKey(0, 0, 0))
            targets = [id_ for id_ in example.labels.tolist() if id_ != IGNORE_INDEX]
            found = [names[id_] for id_ in targets]
            if example.classes is not None and len(targets) == 1:
                found = [*compress(names, example.classes)]
            wanted = labels(text, ["labels"])
            if sorted(found) != sorted(wanted):
                here, there = (", ".join(some[:3]) or "nothing" for some in (found, wanted))
                wrong, note = wrong + 1, f"{here} is learned for {there}"
            count += 1
    return Finding(wrong / max(1, count), 0.0, note)


CHECKS = (
    Check(
        "classes",
        "each text has the corpus's class, or classes, to learn in one place",
        "the objective's `encode` and `items`: how names become numbers, and where they stand",
        classes,
    ),
)
