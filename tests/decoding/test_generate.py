"""Generation: the same with and without a cache, alone and in company."""

from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from everytoken.batch import IGNORE_INDEX, Batch, PaddingSide, References, select
from everytoken.data.collate import Example, collate
from everytoken.decoding.beam_search import BeamSearch
from everytoken.decoding.generate import Decoding, Prediction, beginnings, generate, spread
from everytoken.decoding.sampling import Greedy, Sampling
from everytoken.errors import UserError
from everytoken.model.transformer import Shape, Stack, Transformer
from support.helpers import VOCABULARY, make_batch, make_examples, make_model

NO = IGNORE_INDEX
NEVER = VOCABULARY  # an end token that no model here can choose
SHAPES: list[Shape] = ["encoder_decoder", "decoder"]
LENGTHS = [3, 1, 6, 2]

DECODINGS: list[Decoding] = [
    Greedy(),
    Sampling(temperature=1.0, top_k=None, top_p=0.95, seed=1),
    *(BeamSearch(beams=beams, length_penalty=1.0) for beams in (1, 3, 20)),
]

few = settings(max_examples=40, deadline=None)
each_shape = pytest.mark.parametrize("shape", SHAPES)


class Successor(nn.Module):
    """Predicts the number after the last one that it reads, among 0 to 9."""

    head = nn.Identity()

    def forward(self, batch: Batch) -> Tensor:
        return F.one_hot((batch.input_ids[batch.is_target] + 1) % 10, 10).float()


class Plain(nn.Module):
    """A Transformer that generation doesn't recognise as one."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        self.head = model.head
        self.shape = "decoder"
        self.end_ids: tuple[int, ...] = ()

    def forward(self, batch: Batch) -> Tensor:
        return self.model(batch)


def prompts_of(*rows: list[int], padding_side: PaddingSide = "right", pad_id: int = 0) -> Batch:
    examples = [Example(ids := torch.tensor(row).numpy(), ids) for row in rows]
    return collate(examples, pad_id, padding_side=padding_side)


def successors(prompts: Batch, *, end_id: int = 9, max_new_tokens: int = 20) -> list[list[int]]:
    model = Successor()
    return generate(
        model, model.head, prompts, Greedy(), end_id=end_id, max_new_tokens=max_new_tokens
    )


def generated(
    model: Transformer | Plain,
    prompts: Batch,
    end_id: int = NEVER,
    max_new_tokens: int = 6,
    decoding: Decoding = DECODINGS[0],
) -> list[list[int]]:
    return generate(
        model, model.head, prompts, decoding, end_id=end_id, max_new_tokens=max_new_tokens
    )


def recomputed(model: Transformer, *arguments: Any) -> list[list[int]]:
    plain = Plain(model)
    assert not isinstance(plain, Transformer)
    return generated(plain, *arguments)


def before(ends: list[int], row: list[int]) -> list[int]:
    return [*takewhile(lambda token: token not in ends, row)]


def exact_model(shape: Shape, window: int | None = None) -> Transformer:
    return make_model(shape, window=window).double()


def prompts_for(shape: Shape, lengths: list[int], seed: int = 0, side: PaddingSide = "right"):
    return make_batch(lengths, with_source=shape == "encoder_decoder", seed=seed, padding_side=side)


# To check by eye


def test_each_prompt_is_continued_until_the_end_token_which_is_left_out() -> None:
    assert successors(prompts_of([3], [5, 6], [8])) == [[4, 5, 6, 7, 8], [7, 8], []]


def test_each_row_gets_at_most_max_new_tokens_after_its_own_prompt() -> None:
    prompts = prompts_of([0], [7, 7, 7, 1], [7, 4])
    assert successors(prompts, max_new_tokens=3) == [[1, 2, 3], [2, 3, 4], [5, 6, 7]]
    assert successors(prompts, max_new_tokens=1) == [[1], [2], [5]]
    assert successors(prompts, max_new_tokens=0) == [[], [], []]
    assert successors(prompts_of([5]), max_new_tokens=0) == [[]]


def test_a_row_that_is_over_is_not_continued_while_others_are() -> None:
    # The successor of the end token 2 is 3, and so on: none of it may show.
    assert successors(prompts_of([1], [3], [0, 0]), end_id=2, max_new_tokens=6) == [
        [],
        [4, 5, 6, 7, 8, 9],
        [1],
    ]


def test_an_end_token_inside_a_prompt_ends_nothing() -> None:
    assert successors(prompts_of([9, 9, 6], [9, 7], [9])) == [
        [7, 8],
        [8],
        [0, 1, 2, 3, 4, 5, 6, 7, 8],
    ]


def test_the_padding_of_the_prompts_makes_no_difference() -> None:
    rows = [5], [7, 7, 2], [3, 1]
    expected = [[6, 7, 8], [3, 4, 5, 6, 7, 8], [2, 3, 4, 5, 6, 7, 8]]
    for pad_id in (0, 9):
        assert successors(prompts_of(*rows, pad_id=pad_id)) == expected
        assert successors(prompts_of(*rows, pad_id=pad_id, padding_side="left")) == expected


# With a cache and without


@few
@given(
    shape=st.sampled_from(SHAPES),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    side=st.sampled_from(["left", "right"]),
    end_id=st.integers(0, NEVER),
    max_new_tokens=st.integers(0, 7),
    decoding=st.sampled_from(DECODINGS),
    window=st.sampled_from([None, 1, 3]),
    shorter=st.none() | st.integers(0, 6),
    seed=st.integers(0, 99),
)
def test_with_a_cache_the_same_is_generated_as_without(
    shape: Shape,
    lengths: list[int],
    side: PaddingSide,
    end_id: int,
    max_new_tokens: int,
    decoding: Decoding,
    window: int | None,
    shorter: int | None,
    seed: int,
) -> None:
    model, prompts = exact_model(shape, window), prompts_for(shape, lengths, seed, side)
    if shorter is not None:  # of a prompt so many tokens less see each other both ways
        prompts = replace(prompts, prefix_lengths=(prompts.lengths - shorter).clamp(min=0))
    cached = generated(model, prompts, end_id, max_new_tokens, decoding)
    assert cached == recomputed(model, prompts, end_id, max_new_tokens, decoding)
    assert len(cached) == len(lengths)


def test_prompts_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = exact_model("decoder"), prompts_for("decoder", [40, 25])
    steps = []
    step = Stack.step
    monkeypatch.setattr(Stack, "step", lambda *a: steps.append(len(a[1])) or step(*a))
    generated(model, prompts, max_new_tokens=4)
    assert steps == [2, 2, 2]


def test_rows_that_are_over_are_computed_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = exact_model("decoder"), prompts_for("decoder", [3, 1, 6, 2])
    rows = generated(model, prompts, max_new_tokens=5)
    end_id = rows[0][1]
    expected = [sum(end_id not in row[:t] for row in rows) for t in range(1, 5)]
    assert 0 < expected[-1] < 4
    steps = []
    step = Stack.step
    monkeypatch.setattr(Stack, "step", lambda *a: steps.append(len(a[1])) or step(*a))
    generated(model, prompts, end_id, 5)
    assert steps == expected


@each_shape
def test_each_token_is_the_most_likely_one_after_those_before_it(shape: Shape) -> None:
    model = exact_model(shape)
    for example in make_examples(LENGTHS, with_source=shape == "encoder_decoder"):
        new = generated(model, collate([example], 0))[0]
        ids = torch.tensor([*example.input_ids.tolist(), *new])
        source = None if example.source_ids is None else torch.tensor(example.source_ids)[None]
        batch = Batch.make(
            input_ids=ids[None],
            labels=torch.zeros_like(ids)[None],
            lengths=torch.tensor([len(ids)]),
            source_ids=source,
            source_lengths=None if source is None else torch.tensor([source.shape[1]]),
        )
        best = model.head(model(batch)).argmax(-1).tolist()
        assert best[len(example.input_ids) - 1 : -1] == new
        assert len(new) == 6


# One row and its neighbours


@each_shape
def test_a_batch_is_continued_as_its_rows_one_by_one(shape: Shape) -> None:
    model = exact_model(shape)
    examples = make_examples(LENGTHS, with_source=shape == "encoder_decoder")
    together = generated(model, collate(examples, 0))
    assert together == [generated(model, collate([example], 0))[0] for example in examples]
    assert len({tuple(row) for row in together}) > 1


@each_shape
def test_prompts_padded_left_are_continued_as_those_padded_right(shape: Shape) -> None:
    model = exact_model(shape)
    right, left = prompts_for(shape, LENGTHS), prompts_for(shape, LENGTHS, side="left")
    assert not torch.equal(right.input_ids, left.input_ids)
    assert generated(model, left) == generated(model, right)
    assert recomputed(model, left) == generated(model, right)


@each_shape
def test_every_row_stops_at_its_first_end_token(shape: Shape) -> None:
    model, prompts = exact_model(shape), prompts_for(shape, LENGTHS)
    free = generated(model, prompts, max_new_tokens=9)
    assert [len(row) for row in free] == [9] * 4  # prompts of different lengths, equal room
    for end_id in {token for row in free for token in row}:
        cut = [row[: row.index(end_id)] if end_id in row else row for row in free]
        assert generated(model, prompts, end_id, 9) == cut
        assert recomputed(model, prompts, end_id, 9) == cut


@pytest.mark.parametrize("decoding", DECODINGS[:2])
def test_a_model_that_knows_several_ends_stops_at_the_first_of_any(decoding: Decoding) -> None:
    model, prompts = exact_model("decoder"), prompts_for("decoder", LENGTHS)
    free = generated(model, prompts, NEVER, 9, decoding)
    plain = Plain(model)
    for ends in ([free[0][4], free[1][2]], [free[2][1], free[3][3], free[0][1]]):
        model.end_ids = plain.end_ids = tuple(ends)
        for end_id in ends:
            cut = [before(ends, row) for row in free]
            assert generated(model, prompts, end_id, 9, decoding) == cut
            assert generated(plain, prompts, end_id, 9, decoding) == cut
        # One that was trained to end with another token doesn't end with these.
        assert generated(model, prompts, NEVER, 9, decoding) == free


def by_hand(model: Transformer, example: Example, count: int) -> list[int]:
    """The most likely token after all before it, read anew and alone, so many times."""
    new: list[int] = []
    for _ in range(count):
        ids = np.array([*example.input_ids, *new])
        labels = np.where(np.arange(len(ids)) == len(ids) - 1, 0, NO)
        alone = collate([Example(ids, labels, example.source_ids)], 0)
        new.append(int(model.head(model(alone)).argmax()))
    return new


@each_shape
def test_rows_of_a_batch_end_at_an_end_or_at_the_limit_as_by_hand(shape: Shape) -> None:
    model = exact_model(shape)
    examples = make_examples(LENGTHS, with_source=shape == "encoder_decoder", seed=3)
    free = [by_hand(model, example, 6) for example in examples]
    ways = set()
    for limit in (1, 2, 5, 6):
        for ends in ([free[0][1]], [free[0][4], free[1][1]], [free[2][5], free[3][0]]):
            model.end_ids = tuple(ends)
            rows = [before(ends, row[:limit]) for row in free]
            assert generated(model, collate(examples, 0), ends[0], limit) == rows
            ways.add(len({len(row) == limit for row in rows}))
    assert ways == {1, 2}  # some end at the limit while others end before it


@pytest.mark.bad_input
def test_an_encoder_has_nothing_to_go_on_with() -> None:
    model = make_model("encoder")
    unlike = Plain(model)
    unlike.shape = "encoder"
    for each in (model, unlike):
        with pytest.raises(UserError, match=r"an encoder .* prompt"):
            generated(each, prompts_for("encoder", LENGTHS))


@each_shape
def test_fewer_new_tokens_are_the_beginning_of_more(shape: Shape) -> None:
    model, prompts = exact_model(shape), prompts_for(shape, LENGTHS)
    long = generated(model, prompts, max_new_tokens=8)
    for room in range(9):
        assert generated(model, prompts, max_new_tokens=room) == [row[:room] for row in long]


def test_an_encoder_decoder_reads_its_own_source() -> None:
    model, prompts = exact_model("encoder_decoder"), prompts_for("encoder_decoder", [1] * 6)
    assert prompts.source_ids is not None
    assert prompts.source_lengths is not None
    same_start = replace(prompts, input_ids=torch.zeros_like(prompts.input_ids))
    rows = generated(model, same_start)
    assert len({tuple(row) for row in rows}) > 1
    turned = replace(
        same_start,
        source_ids=prompts.source_ids.flip(0),
        source_lengths=prompts.source_lengths.flip(0),
    )
    assert generated(model, turned) == rows[::-1]


# Side effects


@each_shape
def test_labels_are_not_read_and_nothing_is_changed(shape: Shape) -> None:
    model, prompts = exact_model(shape), prompts_for(shape, LENGTHS)
    before = prompts.input_ids.clone()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    unlabelled = replace(prompts, labels=torch.full_like(prompts.labels, NO), target_count=0)
    assert generated(model, unlabelled) == generated(model, prompts)
    assert torch.equal(prompts.input_ids, before)
    assert all(torch.equal(weights[name], w) for name, w in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_no_graph_is_kept_for_a_backward_pass() -> None:
    class Watched(Successor):
        def forward(self, batch: Batch) -> Tensor:
            assert not torch.is_grad_enabled()
            return super().forward(batch)

    model = Watched()
    assert generate(model, model.head, prompts_of([5]), Greedy(), end_id=9, max_new_tokens=2) == [
        [6, 7]
    ]
    assert torch.is_grad_enabled()


# Where generation starts


@pytest.mark.parametrize("side", ["left", "right"])
def test_generation_starts_where_the_first_target_stands(side: PaddingSide) -> None:
    rows = [([5, 6, 7], [6, 7, 2]), ([8, 9, 4, 3], [NO, NO, 3, 2]), ([7, 1], [NO, NO])]
    examples = [Example(np.array(ids), np.array(labels)) for ids, labels in rows]
    batch = collate(examples, 0, padding_side=side)
    prompts = beginnings(batch)
    assert select(prompts.input_ids, prompts.is_real) == [[5], [8, 9, 4], [7]]
    assert (prompts.input_count, prompts.target_count) == (5, 0)
    said = replace(batch, references=References([None] * 3, [2, 4, 1], 0, 9))
    prompts = beginnings(said)
    assert select(prompts.input_ids, prompts.is_real) == [[5, 6], [8, 9, 4, 3], [7]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_where_generation_starts_sources_are_whole(side: PaddingSide) -> None:
    whole = make_batch(LENGTHS, with_source=True, padding_side=side)
    batch = beginnings(whole)
    assert batch.source_ids is whole.source_ids
    assert batch.source_lengths is whole.source_lengths
    assert batch.padding_side == side
    assert batch.source_count == whole.source_count


def test_a_few_predictions_are_spread_over_all() -> None:
    many = [Prediction([n], [n], [n]) for n in range(10)]
    assert [one.source for one in spread(many, 3)] == [[0], [3], [6]]
    assert spread(many, 99) == many
    assert spread([], 4) == []
