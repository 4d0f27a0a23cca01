"""One global batch, one result: measured with real processes, on every way to cut it.

`invariant_jobs` measures, once for each number of processes; here it is compared. All in float32
on the CPU and without dropout unless a test says otherwise. A *difference* of two tensors is
max|a - b| / max|a|, a *distance* is |a - b| / |a| in the Euclidean norm; the worst tensor counts.
"""

import json
import os
import shutil
import signal
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.utils import counters

from everytoken.batch import IGNORE_INDEX, Batch, PaddingSide
from everytoken.data.collate import Example, Ids, collate
from everytoken.model.backends import Backend
from everytoken.model.transformer import Shape
from everytoken.runtime.launch import launch
from everytoken.runtime.signals import EXIT_CODES
from everytoken.training.module import TokenModule
from support import invariant_jobs as jobs
from support import prefork
from support.helpers import make_batch, make_examples, make_model
from support.invariant_jobs import (
    CLIP_NORM,
    HALF,
    LABEL_SMOOTHING,
    STEPS,
    TASKS,
    UNEQUAL,
    Found,
    Row,
)

pytestmark = pytest.mark.slow
every_task = pytest.mark.parametrize("task", TASKS)
every_smoothing = pytest.mark.parametrize("smoothing", [0.0, LABEL_SMOOTHING])
every_shape = pytest.mark.parametrize("shape", ["encoder_decoder", "decoder", "encoder"])

SAME = 1e-6
SAME_AFTER_TRAINING = 1e-5
"""AdamW divides by gradients: where they are nearly zero it enlarges their rounding."""
HANGS_AFTER = 300
"""Seconds. Ranks that wait for each other forever are a failure and not a longer wait."""


# What is measured


def likely_targets(examples: list[dict[str, str]]) -> list[dict[str, str]]:
    """A third is what the model generates, a third begins like it, a third is left as it is."""
    data = jobs.make_data("seq2seq", {"val": examples})
    module = jobs.make_module("seq2seq", data, model=make_model("encoder_decoder"))
    sources = data.tokenizer.encode([example["source"] for example in examples])
    prompts = collate([data.objective.prompt(ids) for ids in sources], 0)
    made = [data.tokenizer.decode(ids) for ids in module.generate(prompts, jobs.NEW_TOKENS)]
    kinds = zip(examples, made, strict=True)
    return [
        example | {"target": [text, text[:6] + "abc", example["target"]][i % 3]}
        for i, (example, text) in enumerate(kinds)
    ]


@pytest.fixture(scope="module")
def texts() -> dict[str, jobs.Texts]:
    train = jobs.random_examples(50, seed=0)
    val, test = (likely_targets(jobs.random_examples(101, seed)) for seed in (1, 2))
    short = {"source": "a", "target": "b", "text": "c", "labels": '["x"]'}
    long = {"source": "abc", "target": "abcdefghij" * 4, "text": "abcdefghij" * 2}
    long["labels"] = '["y"]'
    return {
        "train": {"train": train},
        "both": {"train": train, "val": val},
        "evaluation": {"val": val, "test": test},
        "pair": {"val": val[:2], "test": test[:2]},
        "ten": {"train": train[:10]},
        "three": {"train": train[10:13]},
        "unequal": {"train": [short, long]},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, jobs.Texts]) -> Path:
    path = tmp_path_factory.mktemp("invariants")
    (path / "texts.json").write_text(json.dumps(texts))
    return path


def measure(folder: Path, ranks: int) -> list[Found]:
    """What each rank of a job found."""
    arguments = {"folder": str(folder)}
    if ranks == 1:
        launch("support.invariant_jobs:everything", arguments, processes=1)
    else:
        prefork.launch("support.invariant_jobs:everything", arguments, ranks, HANGS_AFTER)
    files = [folder / f"{ranks}-{rank}.pt" for rank in range(ranks)]
    return [torch.load(file, weights_only=False) for file in files]


@pytest.fixture(scope="module")
def one(folder: Path) -> Found:
    return measure(folder, 1)[0]


@pytest.fixture(scope="module")
def two(folder: Path, one: Found) -> list[Found]:
    return measure(folder, 2)  # goes on from a checkpoint of `one`


@pytest.fixture(scope="module")
def found(folder: Path, one: Found, two: list[Found]) -> dict[int, list[Found]]:
    """What each rank found, by number of processes."""
    return {1: [one], 2: two, 3: measure(folder, 3), 4: measure(folder, 4)}


def topologies(task: str, smoothing: float) -> list[tuple[int, int]]:
    """In which single steps of a task are measured."""
    return [way for way in TASKS[task].topologies if smoothing in jobs.smoothings(*way)]


def assert_at_most(bound: float, values: Iterable[float]) -> None:
    worst = max(values)  # of nothing there is no maximum
    assert worst <= bound


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).abs().max() / a[n].abs().max()) for n in a)


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).norm() / a[n].norm()) for n in a)


def relative(a: float, b: float) -> float:
    return abs(a - b) / abs(a)


def dealt(ranks: Iterable[dict[str, Any]]) -> list[list[Row]]:
    """The examples of each step, on whichever rank and in whichever micro-batch they were."""
    steps = zip(*(rank["dealt"] for rank in ranks), strict=True)
    return [sorted(chain.from_iterable(chain.from_iterable(step)), key=str) for step in steps]


def all_rows(task: str, texts: jobs.Texts, split: str, epoch: int = 0) -> list[Row]:
    """Every example of a split, made without sampler and collate."""
    examples = jobs.make_data(task, texts).splits[split]
    made = [examples.example(i, epoch) for i in range(len(examples))]
    parts = ([*map(as_list, (e.input_ids, e.labels, e.source_ids, e.classes))] for e in made)
    rows = ((*own, e.prefix_length) for own, e in zip(parts, made, strict=True))
    return sorted(rows, key=str)


def as_list(ids: Ids | None) -> list[int] | None:
    return None if ids is None else ids.tolist()


def naive(
    model: nn.Module, rows: Iterable[Row], smoothing: float = 0.0
) -> tuple[float, float, int, dict[str, Tensor]]:
    """Loss, accuracy, target tokens and gradient in float64, one sequence at a time."""
    model = deepcopy(model).double()
    assert isinstance(model.head, nn.Module)
    total, hits, tokens = torch.zeros((), dtype=torch.float64), 0, 0
    for inputs, labels, source, classes, prefix in rows:
        read, right_classes = (None if p is None else np.array(p) for p in (source, classes))
        example = Example(np.array(inputs), np.array(labels), read, right_classes, prefix)
        batch = collate([example], 0)
        wanted = torch.tensor([label for label in labels if label != IGNORE_INDEX])
        logits = model.head(model(batch))
        right = logits.argmax(-1) == wanted
        if classes is not None:  # each a choice between yes and no, a target their mean
            wanted = torch.tensor(classes)
            logits = torch.stack((torch.zeros_like(logits[0]), logits[0]), 1)
            right = (logits.argmax(-1) == wanted).all()[None]
        surprise = -logits.log_softmax(-1)
        chosen = surprise.gather(1, wanted[:, None]).sum()
        loss = (1 - smoothing) * chosen + smoothing * surprise.mean(-1).sum()
        total = total + loss * len(right) / len(wanted)
        hits += int(right.sum())
        tokens += len(right)
    loss = total / tokens
    loss.backward()
    gradient = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), hits / tokens, tokens, gradient


# Training: the topology leaves no trace


@every_task
def test_each_topology_is_what_it_is_called(found: dict[int, list[Found]], task: str) -> None:
    for ranks, micro_batches in TASKS[task].topologies:
        for rank in found[ranks]:
            first = rank["one_batch"][task, micro_batches, 0.0]["dealt"][0]
            assert len(first) == micro_batches


@every_task
@every_smoothing
def test_the_gradient_is_the_same_for_every_topology(
    found: dict[int, list[Found]], task: str, smoothing: float
) -> None:
    """Smoothing left out of the fix: huggingface/transformers#46731."""
    expected = found[1][0]["one_batch"][task, 1, smoothing]["gradients"]
    assert len(expected) == 3
    assert_at_most(
        SAME,
        (
            difference(a, b)
            for ranks, micro_batches in topologies(task, smoothing)
            for rank in found[ranks]
            for a, b in zip(
                expected,
                rank["one_batch"][task, micro_batches, smoothing]["gradients"],
                strict=True,
            )
        ),
    )


@every_task
@every_smoothing
def test_the_gradient_is_that_of_the_mean_over_target_tokens(
    found: dict[int, list[Found]], task: str, smoothing: float
) -> None:
    run = found[1][0]["one_batch"][task, 1, smoothing]
    model = jobs.steady_model(task)
    for rows, gradient in zip(dealt([run]), run["gradients"], strict=True):
        assert_at_most(SAME, [difference(naive(model, rows, smoothing)[3], gradient)])


@every_task
@every_smoothing
def test_logged_loss_and_accuracy_are_means_over_the_target_tokens_of_all_ranks(
    found: dict[int, list[Found]], task: str, smoothing: float
) -> None:
    """At fixed weights, so that nothing but the logging is compared."""
    model = jobs.steady_model(task)
    steps = dealt([found[1][0]["one_batch"][task, 1, smoothing]])
    expected = [naive(model, rows, smoothing) for rows in steps]
    assert any(accuracy > 0 for _, accuracy, _, _ in expected)
    for ranks, micro_batches in topologies(task, smoothing):
        for rank in found[ranks]:
            logged = rank["one_batch"][task, micro_batches, smoothing]["logged"]
            for step, (loss, accuracy, _, _) in zip(logged, expected, strict=True):
                assert_at_most(SAME, [relative(loss, step["train/loss"])])
                assert step["train/accuracy"] == pytest.approx(accuracy, rel=SAME)


@every_task
def test_twenty_steps_of_adamw_are_the_same_for_every_topology(
    found: dict[int, list[Found]], task: str
) -> None:
    expected = found[1][0]["twenty_steps"][task, 1]
    rates = [step["train/learning_rate"] for step in expected["logged"]]
    assert rates[0] < rates[3] < max(rates) > rates[-1]
    assert all(step["train/gradient_norm"] > 2 * CLIP_NORM for step in expected["logged"])
    start = {n: p.detach() for n, p in jobs.steady_model(task).named_parameters()}
    assert distance(start, expected["weights"]) > 0.1
    for ranks, micro_batches in TASKS[task].topologies:
        for rank in found[ranks]:
            run = rank["twenty_steps"][task, micro_batches]
            assert run["global_step"] == STEPS
            # The norm is taken before clipping, which would hide a wrong factor.
            for name in ("train/loss", "train/gradient_norm"):
                assert_at_most(SAME_AFTER_TRAINING, logged_differences(expected, run, name))
            assert_at_most(SAME_AFTER_TRAINING, [distance(expected["weights"], run["weights"])])
            assert [step["train/learning_rate"] for step in run["logged"]] == rates


def logged_differences(
    a: dict[str, Any], b: dict[str, Any], name: str = "train/loss"
) -> list[float]:
    pairs = zip(a["logged"], b["logged"], strict=True)
    return [relative(one[name], other[name]) for one, other in pairs]


@every_task
def test_examples_and_their_corruption_are_the_same_for_every_topology(
    found: dict[int, list[Found]], texts: dict[str, jobs.Texts], task: str
) -> None:
    """An epoch holds each example once; in the next they come in another order."""
    expected = dealt([found[1][0]["twenty_steps"][task, 1]])
    per_epoch = jobs.make_data(task, texts["train"]).train_steps().budget
    assert per_epoch.examples is not None
    number = -(-len(all_rows(task, texts["train"], "train")) // per_epoch.examples)
    for epoch in range(STEPS // number):
        steps = expected[epoch * number : (epoch + 1) * number]
        rows = sorted(chain.from_iterable(steps), key=str)
        assert rows == all_rows(task, texts["train"], "train", epoch)
    assert expected[0] != expected[number]
    for ranks, micro_batches in TASKS[task].topologies:
        runs = [rank["twenty_steps"][task, micro_batches] for rank in found[ranks]]
        assert dealt(runs) == expected


def test_examples_and_their_corruption_do_not_depend_on_loader_workers(
    one: Found, two: list[Found]
) -> None:
    expected = dealt([one["twenty_steps"]["masked_lm", 1]])[:6]
    for ranks in ([one], two):
        assert dealt(rank["loader_workers"]["masked_lm"] for rank in ranks) == expected


def test_every_rank_makes_as_many_micro_batches_in_every_step(
    found: dict[int, list[Found]],
) -> None:
    """Ranks with fewer would leave the others waiting: Lightning#3325."""
    for task in TASKS:
        for ranks, micro_batches in TASKS[task].topologies:
            runs = [rank["twenty_steps"][task, micro_batches]["dealt"] for rank in found[ranks]]
            for step in zip(*runs, strict=True):
                assert len({len(dealt) for dealt in step}) == 1


# Training: known traps


@pytest.mark.parametrize(("corpus", "sizes"), [("ten", [4, 4, 2]), ("three", [3])])
def test_a_short_last_batch_of_an_epoch_is_divided_by_its_own_tokens(
    found: dict[int, list[Found]], corpus: str, sizes: list[int]
) -> None:
    """Also if the whole epoch is shorter than a batch: Lightning#19987, #21808."""
    model = jobs.steady_model("seq2seq")
    for ranks in (1, 2, 3):
        runs = [rank["short_epochs"][corpus] for rank in found[ranks]]
        steps = dealt(runs)
        assert [len(step) for step in steps] == (sizes * 6)[:6]
        for step, rows in enumerate(steps):
            loss, accuracy, _, gradient = naive(model, rows)
            for run in runs:
                assert_at_most(SAME, [difference(gradient, run["gradients"][step])])
                assert_at_most(SAME, [relative(loss, run["logged"][step]["train/loss"])])
                assert run["logged"][step]["train/accuracy"] == pytest.approx(accuracy, rel=SAME)


@pytest.mark.parametrize("task", UNEQUAL)
def test_ranks_of_unequal_token_counts_do_not_inflate_what_is_logged(
    found: dict[int, list[Found]], task: str
) -> None:
    """A mean of the ranks' means would: Lightning#21838. In the third rank there is nothing."""
    model = jobs.steady_model(task)
    for ranks in (1, 2, 3):
        runs = [rank["unequal_ranks"][task] for rank in found[ranks]]
        alone = [naive(model, rows)[0] for run in runs if (rows := dealt([run])[0])]
        loss, _, tokens, gradient = naive(model, dealt(runs)[0])
        assert sum(run["target_counts"][0] for run in runs) == tokens
        if ranks > 1:
            counts = sorted(run["target_counts"][0] for run in runs)
            assert counts[-1] >= 6 * counts[-2] > 0
            assert abs(sum(alone) / len(alone) - loss) > 1e-3
        for run in runs:
            assert_at_most(SAME, [relative(loss, run["logged"][0]["train/loss"])])
            assert_at_most(SAME, [difference(gradient, run["gradients"][0])])


@every_task
@pytest.mark.parametrize("clip_norm", [None, CLIP_NORM])
def test_fsdp_gives_the_gradient_of_one_process_and_clips_it_as_a_whole(
    one: Found, two: list[Found], task: str, clip_norm: float | None
) -> None:
    """Not each shard for itself: Lightning#19235."""
    free = one["one_batch"][task, 1, 0.0]
    expected = free if clip_norm is None else one["clipped"][task]
    norm = free["logged"][0]["train/gradient_norm"]
    assert norm > 5 * CLIP_NORM
    if clip_norm is not None:
        scale = clip_norm / (norm + 1e-6)  # torch keeps away from a division by zero
        scaled = {n: g * scale for n, g in free["gradients"][0].items()}
        assert_at_most(SAME, [difference(scaled, expected["gradients"][0])])
    for rank in two:
        run = rank["sharded"][task, clip_norm]
        assert_at_most(SAME, [difference(expected["gradients"][0], run["gradients"][0])])
        assert_at_most(SAME, [relative(norm, run["logged"][0]["train/gradient_norm"])])


def test_fsdp_trains_the_same_weights_as_one_process(one: Found, two: list[Found]) -> None:
    expected = one["twenty_steps"]["seq2seq", 1]
    for rank in two:
        run = rank["sharded"]["trained"]
        assert_at_most(SAME_AFTER_TRAINING, logged_differences(expected, run))
        assert_at_most(SAME_AFTER_TRAINING, [distance(expected["weights"], run["weights"])])


@pytest.mark.parametrize("task", jobs.SHAPED)
@pytest.mark.parametrize("clip_norm", [None, CLIP_NORM])
def test_ranks_that_split_matrices_give_the_gradient_of_one_process(
    found: dict[int, list[Found]], task: str, clip_norm: float | None
) -> None:
    """Two that read different examples times two that split: each weight counts once."""
    free = found[1][0]["one_batch"][task, 1, 0.0]
    expected = free if clip_norm is None else found[1][0]["clipped"][task]
    for rank in found[4]:
        run = rank["two_dimensions"][task, clip_norm]
        assert_at_most(SAME, [difference(expected["gradients"][0], run["gradients"][0])])
        for name in ("train/loss", "train/gradient_norm"):
            assert_at_most(SAME, [relative(free["logged"][0][name], run["logged"][0][name])])
        assert run["logged"][0]["train/accuracy"] == free["logged"][0]["train/accuracy"]


def test_ranks_that_split_matrices_read_the_same_and_others_the_rest(
    found: dict[int, list[Found]],
) -> None:
    runs = [rank["two_dimensions"]["trained"] for rank in found[4]]
    assert dealt(runs[::2]) == dealt([found[1][0]["twenty_steps"]["seq2seq", 1]])
    assert runs[0]["dealt"] == runs[1]["dealt"] != runs[2]["dealt"] == runs[3]["dealt"]


def test_ranks_that_split_matrices_train_the_same_weights(found: dict[int, list[Found]]) -> None:
    expected = found[1][0]["twenty_steps"]["seq2seq", 1]
    for rank in found[4]:
        run = rank["two_dimensions"]["trained"]
        assert_at_most(SAME_AFTER_TRAINING, logged_differences(expected, run))
        assert_at_most(SAME_AFTER_TRAINING, [distance(expected["weights"], run["weights"])])


@pytest.mark.parametrize("task", jobs.SHAPED)
def test_ranks_that_split_matrices_count_each_example_once(
    found: dict[int, list[Found]], task: str
) -> None:
    """Of what they generate, too."""
    expected = found[1][0]["evaluation"][task, "evaluation", jobs.UNCUT, "val"]["metrics"]
    for rank in found[4]:
        run = rank["two_dimensions"][task, "evaluated"]
        assert run == pytest.approx(expected, rel=SAME)
        for name in ("val/targets", "val/accuracy", "val/texts", "val/exact_match", "val/bleu"):
            assert run.get(name) == expected.get(name)


def test_ranks_that_split_matrices_stop_after_the_same_step(found: dict[int, list[Found]]) -> None:
    for rank in found[4]:
        assert rank["two_dimensions"]["stopped"] == (3, signal.SIGUSR1)


BF16 = 2**-8
"""Part of a number by which rounding to bfloat16, which keeps 8 significant bits, may change it."""


@every_task
def test_bf16_is_the_same_for_every_topology_but_for_its_rounding(
    one: Found, two: list[Found], task: str
) -> None:
    """Micro-batches round their own part of a gradient, and parts that differ round differently.

    That is one rounding for each part and layer, some up and some down: four are the bound. The
    loss adds up single tokens in float64, and they are rounded alike everywhere: a tenth of one.
    """
    expected = one["half_precision"][task]
    exact = one["one_batch"][task, 1, 0.0]
    assert distance(exact["gradients"][0], expected["gradients"][0]) > BF16  # it is bfloat16
    for rank in two:
        run = rank["half_precision"][task]
        assert_at_most(4 * BF16, [distance(expected["gradients"][0], run["gradients"][0])])
        assert_at_most(BF16 / 10, logged_differences(expected, run))


def test_a_step_has_one_collective_of_its_own_and_of_a_few_numbers(two: list[Found]) -> None:
    """Whatever the number of micro-batches; DDP's exchange of gradients comes on top.

    The numbers are the count of target tokens, and how many ranks were asked to stop, and by what.
    """
    for rank in two:
        (few, many) = rank["collectives"].values()
        assert sum(map(len, few["dealt"])) < sum(map(len, many["dealt"]))
        assert few["made"] == many["made"] == [("all_reduce", 1 + len(EXIT_CODES))] * 3
        assert all("train/loss" not in step for step in (*few["logged"], *many["logged"]))


def test_all_ranks_stop_after_the_same_step_whoever_is_asked(two: list[Found]) -> None:
    """Asked in a step: after it; asked when the votes of the step are counted: after the next."""
    for rank in two:
        early, late = (rank["asked_to_stop"][late] for late in (False, True))
        assert early == (3, signal.SIGUSR1)
        assert late == (4, signal.SIGUSR1)


# Evaluation


def evaluated(found: dict[int, list[Found]], task: str, corpus: str, split: str):
    """Each evaluation of a split: all ranks' findings."""
    limits = [limit for of, limit, splits in jobs.EVALUATIONS if of == corpus and split in splits]
    for ranks in (1, 2, 3):
        for limit in limits:
            yield [rank["evaluation"][task, corpus, limit, split] for rank in found[ranks]]


@every_task
@pytest.mark.parametrize("corpus", ["evaluation", "pair"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_counts_every_example_once(
    found: dict[int, list[Found]], texts: dict[str, jobs.Texts], task: str, corpus: str, split: str
) -> None:
    """On any number of ranks, those included that have nothing to do."""
    rows = all_rows(task, texts[corpus], split)
    assert len(rows) >= len(texts[corpus][split]) == (101 if corpus == "evaluation" else 2)
    tokens = sum(label != IGNORE_INDEX for _, labels, *_ in rows for label in labels)
    for runs in evaluated(found, task, corpus, split):
        batches = chain.from_iterable(run["evaluated"] for run in runs)
        assert sorted(chain.from_iterable(batches), key=str) == rows
        assert sum(run["evaluated_targets"] for run in runs) == tokens
        for run in runs:
            assert run["metrics"][f"{split}/targets"] == tokens
            if task == "seq2seq":
                assert run["metrics"][f"{split}/texts"] == len(rows)


@every_task
@pytest.mark.parametrize("corpus", ["evaluation", "pair"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_metrics_are_the_same_for_every_topology(
    found: dict[int, list[Found]], texts: dict[str, jobs.Texts], task: str, corpus: str, split: str
) -> None:
    model = make_model(TASKS[task].shape, **TASKS[task].sizes)
    loss, accuracy, _, _ = naive(model, all_rows(task, texts[corpus], split))
    expected = next(evaluated(found, task, corpus, split))[0]["metrics"]
    expected |= {
        f"{split}/loss": loss,
        f"{split}/accuracy": accuracy,
        f"{split}/perplexity": np.exp(loss),
    }
    if task == "causal_lm":  # all bits, those of the ends too, over the bytes of the documents
        bits = loss * expected[f"{split}/targets"] / np.log(2)
        documents = [record["text"] for record in texts[corpus][split]]
        expected[f"{split}/bits_per_byte"] = bits / sum(len(text.encode()) for text in documents)
    if task == "seq2seq" and corpus == "evaluation":
        assert 30 <= 101 * expected[f"{split}/exact_match"] <= 40
        assert 30 < expected[f"{split}/bleu"] < 70
    for runs in evaluated(found, task, corpus, split):
        for run in runs:
            assert run["metrics"].keys() == expected.keys()
            for name, value in run["metrics"].items():
                wanted = expected[name]
                assert_at_most(SAME, [abs(value - wanted) / max(abs(wanted), 1e-3)])


def test_evaluation_had_ranks_with_nothing_to_do_and_fillers(found: dict[int, list[Found]]) -> None:
    runs = [rank["evaluation"]["seq2seq", "pair", jobs.UNCUT, "val"] for rank in found[3]]
    assert [[len(batch) for batch in run["evaluated"]] for run in runs] == [[1], [1], [0]]


# Resumption


@pytest.fixture(scope="module")
def resumed(folder: Path, texts: dict[str, jobs.Texts], one: Found, two: list[Found]) -> list[Any]:
    """(first half, second half) of runs that changed from 1 process to 2, 2 to 1, 1 to 1."""
    back = jobs.second_half(1, texts, folder / "two")
    same = jobs.second_half(1, texts, folder / "one")
    return [
        ([one["first_half"]], [rank["second_half"] for rank in two]),
        ([rank["first_half"] for rank in two], [back]),
        ([one["first_half"]], [same]),
    ]


every_checkpoint = pytest.mark.parametrize("checkpoint", jobs.CHECKPOINTS)


@every_checkpoint
def test_a_resumed_run_goes_on_where_the_other_stopped(
    one: Found, resumed: list[Any], checkpoint: str
) -> None:
    """On another number of processes and on the same: no example is repeated or left out."""
    expected = one["uninterrupted"]
    for before, after in resumed:
        runs = [rank[checkpoint] for rank in after]
        assert dealt(before) + dealt(runs) == dealt([expected])[:STEPS]


@every_checkpoint
def test_a_resumed_run_ends_where_the_uninterrupted_one_ends(
    one: Found, resumed: list[Any], checkpoint: str
) -> None:
    expected = one["uninterrupted"]
    for _, after in resumed:
        for run in (rank[checkpoint] for rank in after):
            assert run["global_step"] == STEPS
            assert [step["step"] for step in run["logged"]] == [*range(HALF + 1, STEPS + 1)]
            tail = expected | {"logged": expected["logged"][HALF:]}
            rates = [step["train/learning_rate"] for step in tail["logged"]]
            assert [step["train/learning_rate"] for step in run["logged"]] == rates
            assert_at_most(SAME_AFTER_TRAINING, logged_differences(tail, run))
            assert_at_most(SAME_AFTER_TRAINING, [distance(expected["weights"], run["weights"])])


@every_checkpoint
def test_a_resumed_run_validates_at_the_steps_at_which_the_uninterrupted_one_does(
    one: Found, resumed: list[Any], checkpoint: str
) -> None:
    expected = [step for step in one["uninterrupted"]["validated"] if step["step"] > HALF]
    assert [step["step"] for step in expected] == [15, 20]
    for _, after in resumed:
        for run in (rank[checkpoint] for rank in after):
            validated = [step for step in run["validated"] if step["step"] > HALF]
            assert [step["step"] for step in validated] == [15, 20]
            pairs = zip(expected, validated, strict=True)
            values = [relative(a["val/loss"], b["val/loss"]) for a, b in pairs]
            assert_at_most(SAME_AFTER_TRAINING, values)


@every_task
def test_every_task_goes_on_bit_for_bit(
    texts: dict[str, jobs.Texts], tmp_path: Path, task: str
) -> None:
    """In an epoch, into the next, and with dropout."""

    def trained(steps: int, checkpoint: Path | None = None) -> Any:
        model = make_model(TASKS[task].shape, dropout=0.2, layers=1, **TASKS[task].sizes)
        torch.manual_seed(checkpoint is None)  # of a process, which is another after a crash
        data = jobs.make_data(task, texts["train"], limit=100)
        return jobs.train(task, 1, data, ckpt_path=checkpoint, steps=steps, model=model)

    kept = tmp_path / "kept.ckpt"
    trained(2)[0].save_checkpoint(kept)
    (_, whole), (_, again) = trained(4), trained(4, kept)
    assert again["dealt"] == whole["dealt"][2:]
    assert again["logged"] == whole["logged"][2:]
    assert whole["weights"].keys() == again["weights"].keys()
    for name, weight in whole["weights"].items():
        assert torch.equal(weight, again["weights"][name]), name


# Padding leaves no trace


def with_garbage(batch: Batch, seed: int) -> Batch:
    """Other ids where nothing stands."""
    chance = torch.Generator().manual_seed(seed)

    def fill(ids: Tensor, is_real: Tensor) -> Tensor:
        return torch.where(is_real, ids, torch.randint(0, 23, ids.shape, generator=chance))

    changed = replace(batch, input_ids=fill(batch.input_ids, batch.is_real))
    if batch.source_ids is not None:
        changed = replace(changed, source_ids=fill(*batch.first_side))
    return changed


def evaluate_and_learn(shape: Shape, batch: Batch) -> tuple[dict[str, float], dict[str, Tensor]]:
    """All metrics of a batch, and the gradient of its loss."""
    task = next(name for name, task in TASKS.items() if task.shape == shape)
    data = jobs.make_data(task, {"val": jobs.random_examples(1, 0)})
    module = jobs.make_module(task, data)
    module.validation_step(batch, batch_idx=1)
    sums = module.target_sums(batch, LABEL_SMOOTHING)
    (sums.loss / batch.target_count).backward()
    metrics = {name: float(value) for name, value in module.val_metrics.values().items()}
    metrics["smoothed_loss"] = float(sums.loss.detach())
    return metrics, jobs.gradients([*module.model.named_parameters()])


@every_shape
@settings(max_examples=8, deadline=None)
@given(
    side=st.sampled_from(["left", "right"]),
    multiple=st.sampled_from([1, 8, 32]),
    seed=st.integers(0, 99),
)
def test_nothing_depends_on_padding(
    shape: Shape, side: PaddingSide, multiple: int, seed: int
) -> None:
    examples = make_examples([7, 2, 19, 11, 1], with_source=shape == "encoder_decoder")
    metrics, gradient = evaluate_and_learn(shape, collate(examples, 0))
    padded = collate(examples, 0, padding_side=side, pad_to_multiple_of=multiple)
    other_metrics, other_gradient = evaluate_and_learn(shape, with_garbage(padded, seed))
    # Without a corpus there are no bytes to divide by: NaN in both.
    assert other_metrics == pytest.approx(metrics, rel=SAME, nan_ok=True)
    assert_at_most(SAME, [difference(gradient, other_gradient)])


def test_a_sequence_with_an_empty_source_disturbs_nobody() -> None:
    """A row whose every key is masked is undefined in plain softmax: pytorch#103749."""
    examples = make_examples([7, 2, 11], with_source=True)
    nothing = np.array([], dtype=np.int64)
    mute = Example(np.array([5, 6]), np.full(2, IGNORE_INDEX), nothing)
    metrics, gradient = evaluate_and_learn("encoder_decoder", collate(examples, 0))
    with_mute = collate([examples[0], mute, *examples[1:]], 0)
    _, other = evaluate_and_learn("encoder_decoder", with_mute)
    assert_at_most(SAME, [difference(gradient, other)])
    speaking = replace(mute, labels=np.array([6, 7]))
    metrics, gradient = evaluate_and_learn("encoder_decoder", collate([speaking], 0))
    assert np.isfinite(metrics["smoothed_loss"])
    assert all(part.isfinite().all() for part in gradient.values())


# Without asking the device, and compiled


@every_shape
def test_a_step_reads_no_value_from_the_device(shape: Shape) -> None:
    """On the meta device there are no values: whoever asks for one fails."""
    batch = make_batch([7, 2, 19], with_source=shape == "encoder_decoder").to("meta")
    model = make_model(shape).to("meta")
    module = module_of(model)
    module.target_sums(batch, LABEL_SMOOTHING).loss.backward()
    assert all(p.grad is not None and p.grad.is_meta for p in model.parameters())
    with pytest.raises(RuntimeError, match="meta"):
        module.target_sums(batch).loss.item()


def module_of(model: nn.Module) -> TokenModule:
    data = jobs.make_data("causal_lm", {"val": jobs.random_examples(1, 0)})
    return jobs.make_module("causal_lm", data, model=model)  # pyright: ignore


needs_a_compiler = pytest.mark.skipif(
    not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))),
    reason="torch.compile needs a C++ compiler",
)


@needs_a_compiler
@pytest.mark.parametrize("attention", ["auto", "padded"])
def test_a_compiled_model_learns_the_same(attention: Backend) -> None:
    """Fused kernels add in another order: a few roundings more than between topologies."""
    model = jobs.steady_model("causal_lm", attention)
    compiled = deepcopy(model)
    compiled.compile(dynamic=True)
    torch._dynamo.reset()
    counters.clear()
    graphs = []
    for seed, lengths in enumerate(([7, 2, 19], [3, 5, 6, 12, 1], [4, 4])):
        batch = make_batch(lengths, seed=seed)
        losses = []
        for each in (model, compiled):
            each.zero_grad()
            loss = module_of(each).target_sums(batch, LABEL_SMOOTHING).loss / batch.target_count
            loss.backward()
            losses.append(float(loss.detach()))
        assert_at_most(SAME, [relative(*losses)])
        parts = (jobs.gradients([*each.named_parameters()]) for each in (model, compiled))
        assert_at_most(5 * SAME, [difference(*parts)])
        graphs.append(counters["stats"]["unique_graphs"])
    # Graphs are the same for every size. Attention by groups, for CPUs, runs between them;
    # otherwise the whole model is one, unpadding included.
    assert len(set(graphs)) == 1
    if attention == "padded":
        assert graphs[0] == 1
        assert not counters["graph_break"]
