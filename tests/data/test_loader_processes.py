"""What loader processes are given reaches them however they begin: forked, or made anew."""

import pickle
from itertools import islice

import pytest

from everytoken.data import datamodule
from everytoken.data.micro_batches import MicroBatches
from support.invariant_jobs import TASKS, Row, make_data, random_examples, rows

TEXTS = {"train": random_examples(30, 0), "val": random_examples(5, 1)}


def steps(task: str, examples: MicroBatches) -> list[list[Row]]:
    """The rows of the first steps, as a data set makes them."""
    plans = islice(make_data(task, TEXTS).train_steps(), 3)
    return [[row for batch in examples[plan] for row in rows(batch)] for plan in plans]


@pytest.mark.parametrize("task", TASKS)
def test_a_process_that_is_no_fork_makes_the_same_micro_batches(task: str) -> None:
    examples = make_data(task, TEXTS).splits["train"]
    assert steps(task, pickle.loads(pickle.dumps(examples))) == steps(task, examples)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_may_begin_in_either_way(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodule, "START_METHOD", method)
    task = "sft"
    here = make_data(task, TEXTS).train_dataloader()
    there = make_data(task, TEXTS, num_workers=1).train_dataloader()
    pairs = list(zip(islice(here, 3), islice(there, 3), strict=True))
    assert len(pairs) == 3
    for mine, theirs in pairs:
        assert [rows(batch) for batch in mine] == [rows(batch) for batch in theirs]


def test_on_linux_they_are_forks_whatever_python_would_do() -> None:
    loader = make_data("seq2seq", TEXTS, num_workers=1).train_dataloader()
    context = loader.multiprocessing_context
    assert context is not None
    assert context.get_start_method() == "fork"
    assert make_data("seq2seq", TEXTS).train_dataloader().multiprocessing_context is None
