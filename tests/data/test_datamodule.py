"""From a corpus to batches: every example comes, once, and the same whoever loads it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from everytoken.batch import IGNORE_INDEX, Batch, PaddingSide
from everytoken.data.balance import Work
from everytoken.data.collate import Example
from everytoken.data.cut import Topology
from everytoken.data.datamodule import Batching, TokenDataModule
from everytoken.data.epoch import BatchBudget
from everytoken.data.masked_lm import MaskedLM
from everytoken.data.objective import CausalLM, ExampleKey, Item, ObjectiveFactory, Seq2Seq
from everytoken.data.sampler import StepPlan
from everytoken.errors import UserError
from everytoken.tokenizer.learned import train_char
from everytoken.tokenizer.special import SpecialIds
from everytoken.tokenizer.tokenizer import Tokenizer

TASKS: dict[str, tuple[Sequence[str], ObjectiveFactory]] = {
    "seq2seq": (
        ("source", "target"),
        partial(Seq2Seq, start_id=None, max_tokens=50, long="refuse"),
    ),
    "causal_lm": (("text",), partial(CausalLM, window_tokens=8, stride_tokens=8, long="windows")),
    "masked_lm": (
        ("text",),
        partial(MaskedLM, window_tokens=8, stride_tokens=8, long="windows", corrupted_fraction=0.3),
    ),
}
every_task = pytest.mark.parametrize("task", TASKS)


class Pairs:
    """Words of a split, and the same backwards."""

    fields: tuple[str, ...] = ("source", "target")

    def __init__(self, **words: str) -> None:
        self.words = words

    def examples(self, split: str) -> list[dict[str, str]]:
        return [{"source": w, "target": w[::-1]} for w in self.words.get(split, "").split()]


class Texts(Pairs):
    """Words of a split."""

    fields = ("text",)

    def examples(self, split: str) -> list[dict[str, str]]:
        return [{"text": word} for word in self.words.get(split, "").split()]


WORDS = {
    "train": "a bc def ghij klmno pqrstu vwxyzab cdefghij klmnopqrs tu vwx yz zyxwvutsrqponmlkjihg",
    "val": "zebra yak ox whale vole ibex a",
    "test": "lion tiger bear",
}


def make_data(
    task: str,
    source: Pairs | None = None,
    *,
    splits: Sequence[str] = ("train", "val", "test"),
    limit_examples: int | None = None,
    tokenizer: Tokenizer | None = None,
    train_tokenizer: Callable[[Iterable[str]], Tokenizer] = train_char,
    budget: BatchBudget = BatchBudget(tokens=60, examples=None),  # noqa: B008
    microbatch_tokens: int = 50,
    padding_side: PaddingSide = "right",
    pad_to_multiple_of: int = 1,
    num_workers: int = 0,
    seed: int = 0,
    epochs: int | None = 2,
    work: Work | None = None,
) -> TokenDataModule:
    fields, make_objective = TASKS[task]
    if source is None:
        source = Pairs(**WORDS) if task == "seq2seq" else Texts(**WORDS)
    return TokenDataModule(
        source=source,
        fields=fields,
        limit_examples=limit_examples,
        make_objective=make_objective,
        train_tokenizer=train_tokenizer,
        tokenizer=tokenizer,
        splits=splits,
        batching=Batching(budget, microbatch_tokens, padding_side, pad_to_multiple_of, work),
        num_workers=num_workers,
        seed=seed,
        epochs=epochs,
    )


def set_topology(
    data: TokenDataModule, monkeypatch: pytest.MonkeyPatch, topology: Topology
) -> None:
    monkeypatch.setattr(data, "topology", lambda: topology)


def as_lists(batch: Batch) -> dict[str, Any]:
    """All fields, as what can be compared."""
    return {n: v.tolist() if isinstance(v, Tensor) else v for n, v in vars(batch).items()}


def rows(batches: Iterable[Batch]) -> list[tuple[list[int], list[int]]]:
    """Inputs and labels of each example, without padding."""
    return [
        (ids[real].tolist(), labels[real].tolist())
        for batch in batches
        if not batch.is_filler
        for ids, labels, real in zip(batch.input_ids, batch.labels, batch.is_real, strict=True)
    ]


def target_texts(data: TokenDataModule, batches: Iterable[Batch]) -> list[str]:
    """The texts that the labels spell, sorted."""
    return sorted(data.tokenizer.decode(labels) for _, labels in rows(batches))


# Training


@every_task
def test_training_batches_do_not_depend_on_the_number_of_loader_workers(task: str) -> None:
    def loaded(num_workers: int) -> list[list[dict[str, Any]]]:
        data = make_data(task, num_workers=num_workers)
        loader = data.train_dataloader()
        assert loader.num_workers == num_workers
        return [[as_lists(batch) for batch in step] for step in loader]

    alone = loaded(0)
    assert len(alone) > 3
    assert loaded(2) == alone


def test_an_epoch_holds_every_training_example_once() -> None:
    data = make_data("seq2seq", epochs=1)
    steps = list(data.train_dataloader())
    assert len(steps) == data.train_steps().total_steps() > 1
    expected = sorted(word[::-1] for word in WORDS["train"].split())
    assert target_texts(data, chain.from_iterable(steps)) == expected


def test_sources_stand_beside_their_targets() -> None:
    data = make_data("seq2seq", epochs=1)
    for batch in chain.from_iterable(data.train_dataloader()):
        assert batch.source_ids is not None
        sources = [data.tokenizer.decode(ids) for ids in batch.source_ids.tolist()]
        targets = [data.tokenizer.decode(labels) for _, labels in rows([batch])]
        assert [source[::-1] for source in sources] == targets


@every_task
def test_steps_keep_both_token_budgets(task: str) -> None:
    data = make_data(task, budget=BatchBudget(70, None), microbatch_tokens=45)
    steps = list(data.train_dataloader())
    assert all(0 < sum(batch.real_count for batch in step) <= 70 for step in steps)
    assert all(batch.real_count <= 45 for step in steps for batch in step)
    assert any(len(step) > 1 for step in steps)


def test_batch_size_counts_examples() -> None:
    data = make_data("seq2seq", budget=BatchBudget(None, 4), epochs=1)
    sizes = [sum(len(batch.input_ids) for batch in step) for step in data.train_dataloader()]
    assert sizes == [4, 4, 4, 1]


@every_task
def test_ranks_share_the_examples_of_a_step(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(topology: Topology) -> list[list[Batch]]:
        data = make_data(task)
        set_topology(data, monkeypatch, topology)
        return list(data.train_dataloader())

    one = steps(Topology(1, 0, 50))
    three = [steps(Topology(3, rank, 50)) for rank in range(3)]
    for whole, *parts in zip(one, *three, strict=True):
        assert len({len(part) for part in parts}) == 1
        assert sorted(rows(chain.from_iterable(parts))) == sorted(rows(whole))


def test_a_rank_with_nothing_left_gets_a_filler(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data("seq2seq", Pairs(train="a b"), splits=["train"], epochs=1)
    set_topology(data, monkeypatch, Topology(3, 2, 50))
    ((batch,),) = data.train_dataloader()
    assert batch.is_filler
    assert batch.target_count == batch.real_count == 0
    assert batch.source_ids is not None


def test_the_topology_is_that_of_the_trainer() -> None:
    data = make_data("seq2seq")
    assert data.topology() == Topology(1, 0, 50)
    data.trainer = SimpleNamespace(strategy=None, world_size=3, global_rank=2)  # pyright: ignore
    assert data.topology() == Topology(3, 2, 50)


@every_task
def test_first_step_leaves_out_the_steps_before_it(task: str) -> None:
    data = make_data(task)
    whole = [[as_lists(batch) for batch in step] for step in data.train_dataloader()]
    data.first_step = len(whole) // 2 + 1
    tail = [[as_lists(batch) for batch in step] for step in data.train_dataloader()]
    assert tail == whole[data.first_step :]


def test_the_seed_decides_order_and_corruption() -> None:
    def loaded(seed: int) -> list[Any]:
        data = make_data("masked_lm", seed=seed, epochs=1)
        return rows(chain.from_iterable(data.train_dataloader()))

    assert loaded(1) == loaded(1)
    assert loaded(1) != loaded(2)
    assert sorted(loaded(1)) != sorted(loaded(2))


def test_corruption_is_drawn_anew_in_each_epoch() -> None:
    data = make_data("masked_lm", budget=BatchBudget(None, 100), microbatch_tokens=500)
    first, second = (sorted(rows(step)) for step in data.train_dataloader())
    assert first != second
    assert len(first) == len(second)


def test_each_example_has_a_corruption_of_its_own() -> None:
    data = make_data("masked_lm", Texts(train="abcdefg " * 20), splits=["train"], epochs=1)
    found = rows(chain.from_iterable(data.train_dataloader()))
    assert len({str(row) for row in found}) > 10


# Evaluation


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("ranks", [1, 2, 5])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_holds_every_example_once(
    split: str, ranks: int, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[Batch] = []
    data = make_data("seq2seq", num_workers=num_workers, microbatch_tokens=50)
    for rank in range(ranks):
        set_topology(data, monkeypatch, Topology(ranks, rank, 20))
        loader = data.val_dataloader() if split == "val" else data.test_dataloader()
        batches += loader
    assert target_texts(data, batches) == sorted(w[::-1] for w in WORDS[split].split())
    assert all(batch.real_count <= 20 for batch in batches)


@every_task
def test_evaluation_is_the_same_each_time(task: str) -> None:
    data = make_data(task)
    first, second = ([as_lists(b) for b in data.val_dataloader()] for _ in range(2))
    assert first == second
    assert first == [as_lists(b) for b in make_data(task, epochs=None).val_dataloader()]


# Batches


@every_task
def test_batches_are_padded_as_set(task: str) -> None:
    data = make_data(task, padding_side="left", pad_to_multiple_of=4)
    batches = [*chain.from_iterable(data.train_dataloader()), *data.val_dataloader()]
    for batch in batches:
        assert batch.padding_side == "left"
        assert batch.input_ids.shape[1] % 4 == 0
        assert (batch.input_ids[~batch.is_real] == data.tokenizer.special.pad).all()
    plain = make_data(task)
    assert rows(data.val_dataloader()) == rows(plain.val_dataloader())


@every_task
def test_lengths_are_the_real_tokens_of_each_example(task: str) -> None:
    split = make_data(task).splits["train"]
    assert len(split) == len(split.lengths) == len(split.items)
    batches = split[StepPlan(0, [[index] for index in range(len(split))])]
    assert [batch.real_count for batch in batches] == split.lengths.tolist()


# Tokenizer and limits


@every_task
def test_batches_say_which_examples_they_hold(task: str) -> None:
    data = make_data(task)
    dataset = data.splits["val"]
    seen = []
    for batch in data.val_dataloader():
        assert batch.indices is not None
        for row, index in enumerate(batch.indices.tolist()):
            ids = batch.input_ids[row][batch.is_real[row]]
            assert ids.tolist() == dataset.example(index).input_ids.tolist()
            seen.append(index)
    assert sorted(seen) == list(range(len(dataset)))


@pytest.mark.parametrize("task", ["seq2seq", "causal_lm"])
def test_the_tokenizer_learns_the_training_split_only(task: str) -> None:
    words = {"train": "abc", "val": "abcx", "test": "y"}
    source = Pairs(**words) if task == "seq2seq" else Texts(**words)
    seen: list[str] = []

    def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
        seen.extend(texts)
        return train_char(seen)

    data = make_data(task, source, train_tokenizer=train_tokenizer)
    assert seen == (["abc", "cba"] if task == "seq2seq" else ["abc"])
    ((_, labels),) = rows(data.val_dataloader())
    unk, eos = data.tokenizer.special.unk, data.tokenizer.special.eos
    expected = [unk, 7, 6, 5, eos] if task == "seq2seq" else [5, 6, 7, unk, eos]
    assert labels == expected


def test_a_given_tokenizer_is_used_and_none_is_trained() -> None:
    def refuse(texts: Iterable[str]) -> Tokenizer:
        raise AssertionError

    tokenizer = train_char(["zyx"])
    data = make_data("seq2seq", splits=["val"], tokenizer=tokenizer, train_tokenizer=refuse)
    assert data.tokenizer is tokenizer
    assert set(data.splits) == {"val"}


def test_the_objective_knows_the_tokenizer() -> None:
    data = make_data("masked_lm")
    assert isinstance(data.objective, MaskedLM)
    assert data.objective.special == data.tokenizer.special
    assert data.objective.vocabulary == len(data.tokenizer) == 5 + 26


def test_limit_examples_keeps_the_first_of_each_split() -> None:
    tokenizer = train_char(WORDS.values())
    data = make_data("seq2seq", limit_examples=2, tokenizer=tokenizer, epochs=1)
    assert target_texts(data, chain.from_iterable(data.train_dataloader())) == ["a", "cb"]
    assert target_texts(data, data.val_dataloader()) == sorted(["arbez", "kay"])
    assert target_texts(data, data.test_dataloader()) == sorted(["noil", "regit"])


def test_the_tokenizer_learns_no_more_than_the_limit() -> None:
    assert len(make_data("seq2seq", limit_examples=2).tokenizer) == 5 + 3


def test_a_limit_above_the_number_of_examples_changes_nothing() -> None:
    assert len(make_data("seq2seq", limit_examples=1000).splits["train"]) == 13


# What a user can mend


@pytest.mark.bad_input
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_split_is_named(split: str) -> None:
    with pytest.raises(UserError, match=rf"the {split} split is empty.*data\.corpus"):
        make_data("seq2seq", Pairs(**{**WORDS, split: ""}))


def test_a_split_that_is_not_needed_may_be_empty() -> None:
    assert len(make_data("seq2seq", Pairs(train="a b"), splits=["train"]).splits["train"]) == 2


@pytest.mark.bad_input
def test_a_missing_field_is_named() -> None:
    with pytest.raises(
        UserError, match="train example 0 has text but the task needs source, target"
    ):
        make_data("seq2seq", Texts(**WORDS))
    with pytest.raises(UserError, match=r"train example 0 has source, target but .* needs text"):
        make_data("causal_lm", Pairs(**WORDS))


@pytest.mark.bad_input
def test_a_field_missing_further_down_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Pairs(**WORDS)
    records = [{"source": "a", "target": "b"}, {"source": "c"}]
    monkeypatch.setattr(source, "examples", lambda split: records)
    with pytest.raises(UserError, match="train example 1 has source but the task needs target"):
        make_data("seq2seq", source)


@pytest.mark.bad_input
@pytest.mark.parametrize(("task", "longest"), [("seq2seq", 42), ("causal_lm", 8)])
def test_a_micro_batch_must_hold_the_longest_example(task: str, longest: int) -> None:
    assert make_data(task, microbatch_tokens=longest).splits["train"].lengths.max() == longest
    setting = rf"data\.microbatch_tokens={longest - 1} .*longest train example \({longest} real"
    with pytest.raises(UserError, match=f"{setting}.*at least {longest}"):
        make_data(task, microbatch_tokens=longest - 1)


@pytest.mark.bad_input
def test_a_micro_batch_must_hold_the_longest_evaluation_example() -> None:
    with pytest.raises(UserError, match=r"data\.microbatch_tokens=10 .* val example \(14 real"):
        make_data("seq2seq", Pairs(train="a", val="abcdef", test="b"), microbatch_tokens=10)


class NotShort(CausalLM):
    """Asks nothing of texts that are shorter than a limit.

    Args:
        shortest: this limit, in tokens.
    """

    def __init__(self, special: SpecialIds, vocabulary: int, shortest: int) -> None:
        super().__init__(special, vocabulary, window_tokens=100, stride_tokens=100, long="windows")
        self.shortest = shortest

    def example(self, item: Item, key: ExampleKey) -> Example:
        made = super().example(item, key)
        is_short = len(item.ids) - 2 < self.shortest  # begin and end aside
        return replace(made, labels=np.full_like(made.labels, IGNORE_INDEX)) if is_short else made


def test_examples_without_a_target_are_counted_and_the_setting_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They teach nothing, and nobody would notice: huggingface/trl#6668."""
    monkeypatch.setitem(TASKS, "not_short", (("text",), partial(NotShort, shortest=3)))
    data = make_data("not_short", splits=["train", "val"])
    warnings = " ".join(capsys.readouterr().out.split())  # lines are broken for the terminal
    assert "warning: 4 of 13 train examples have no target token" in warnings
    assert "warning: 2 of 7 val examples have no target token" in warnings
    assert "task.objective (NotShort)" in warnings
    assert len(rows(data.val_dataloader())) == 7


@pytest.mark.bad_input
def test_without_any_target_there_is_nothing_to_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "not_short", (("text",), partial(NotShort, shortest=100)))
    with pytest.raises(UserError, match=r"no train example has .* task\.objective \(NotShort\)"):
        make_data("not_short")


@every_task
def test_no_warning_where_every_example_has_a_target(
    task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data(task)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("ranks", "idle"), [(1, 0), (4, 0), (5, 1), (8, 4)])
def test_ranks_that_never_get_an_example_are_counted(ranks: int, idle: int) -> None:
    data = make_data("seq2seq", budget=BatchBudget(tokens=None, examples=4))
    assert data.idle_ranks(ranks) == idle


def test_a_run_keeps_to_the_way_in_which_it_began_to_deal_out_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checkpoints of earlier versions say nothing: tokens are balanced, orders are in memory."""
    monkeypatch.setattr("everytoken.data.datamodule.LARGE", 0)

    def data_of(state: dict[str, Any] | None = None) -> TokenDataModule:
        data = make_data("seq2seq", budget=BatchBudget(70, None), epochs=None, work=Work(9))
        data.trainer = SimpleNamespace(global_step=2, strategy=None, world_size=3, global_rank=1)  # type: ignore
        if state is not None:
            data.know(state)  # as early as this
            data.load_state_dict(state)
        return data

    new = data_of()
    assert new.topology() == Topology(3, 1, 50, Work(9))
    assert new.order.is_computed
    whole = [*islice(new.train_steps(), 9)]
    state = new.state_dict()
    assert [*islice(data_of(state).train_steps(), 7)] == whole[2:]
    old = data_of({key: value for key, value in state.items() if key != "steps"})
    assert old.topology() == Topology(3, 1, 50)
    assert not old.order.is_computed
    assert old.state_dict()["steps"]["dealing"] == 1
    again = data_of(old.state_dict())
    assert [*islice(again.train_steps(), 7)] == [*islice(old.train_steps(), 7)] != whole[2:]


def test_marks_of_other_steps_are_not_taken() -> None:
    def data_of(**settings: Any) -> TokenDataModule:
        data = make_data("seq2seq", **{"budget": BatchBudget(70, None), **settings})
        data.trainer = SimpleNamespace(global_step=5, strategy=None, world_size=1, global_rank=0)  # type: ignore
        return data

    saved = data_of(epochs=3)
    saved.train_steps().total_steps()
    state = saved.state_dict()
    same, other = data_of(), data_of(budget=BatchBudget(90, None))
    same.load_state_dict(state)
    other.load_state_dict(state)
    assert same.marks.begins == saved.marks.begins != [0]
    assert other.marks.begins == [0]
    assert other.first_step == 5


def test_a_corpus_that_has_changed_is_told_when_a_run_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def data_of(splits: Sequence[str] = ("train", "val"), **words: str) -> TokenDataModule:
        return make_data("seq2seq", Pairs(**WORDS | words), splits=splits)

    saved = data_of()
    saved.trainer = SimpleNamespace(global_step=3)  # type: ignore[assignment]
    state = saved.state_dict()
    for same in (data_of(), data_of(splits=["val"]), data_of(splits=["val"], train="a")):
        same.load_state_dict(state)
        assert same.first_step == 3
    earlier = {key: value for key, value in state.items() if key != "texts"}
    data_of().load_state_dict(earlier)
    assert capsys.readouterr().out == ""

    def told(state: dict[str, Any], **words: str) -> str:
        data_of(**words).load_state_dict(state)
        return " ".join(capsys.readouterr().out.split())

    end = "others than when the checkpoint was saved: from here on this is no longer the same run"
    backwards = {split: words[::-1] for split, words in WORDS.items()}
    same_lengths = {"train": " ".join(word[::-1] for word in WORDS["train"].split())}
    assert told(state, train=WORDS["train"] + " more") == f"warning: the train texts are {end}"
    assert told(state, **same_lengths) == f"warning: the train texts are {end}"
    assert told(state, **backwards) == f"warning: the train and val texts are {end}"
    assert told(state, val=backwards["val"]) == f"warning: the val texts are {end}"
    grown = WORDS["train"] + " more"
    assert told(earlier, train=grown) == f"warning: the training examples are {end}"
