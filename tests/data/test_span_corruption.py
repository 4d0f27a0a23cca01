"""Span corruption: nothing of a text is lost, and the lengths are T5's."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everytoken.batch import IGNORE_INDEX
from everytoken.data.collate import Example
from everytoken.data.objective import ExampleKey, length_of
from everytoken.data.span_corruption import SpanCorruption
from everytoken.errors import UserError
from everytoken.tokenizer.learned import train_char
from everytoken.tokenizer.tokenizer import Tokenizer

LETTERS = "abcdefghij"


@cache
def tokenizer(sentinels: int = 300) -> Tokenizer:
    return train_char([LETTERS], sentinels=sentinels)


def make(sentinels: int = 300, **others: Any) -> SpanCorruption:
    known = tokenizer(sentinels)
    settings = {
        "window_tokens": 700,
        "stride_tokens": others.get("window_tokens", 700),
        "long": "windows",
        "corrupted_fraction": 0.15,
        "mean_span": 3.0,
        "sentinels": 300,
        "start_id": None,
    }
    return SpanCorruption(known.special, len(known), known, **(settings | others))


def text_of(objective: SpanCorruption, example: Example) -> list[int]:
    """What source and target say together, without markup."""
    ids = objective.filled(example, example.labels.tolist())
    return [id_ for id_ in ids if id_ != objective.special.eos]


def spans_of(objective: SpanCorruption, labels: Sequence[int]) -> list[list[int]]:
    """The spans of a target, of which each begins with its sentinel."""
    *inside, end = labels
    assert end == objective.special.eos
    spans: list[list[int]] = []
    for id_ in inside:
        if id_ in objective.sentinels:
            spans.append([])
        spans[-1].append(id_)
    return spans


texts = st.lists(st.sampled_from(tokenizer().encode([LETTERS])[0]), max_size=120)
keys = st.builds(ExampleKey, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))


@settings(max_examples=150, deadline=None)
@given(texts, keys, st.floats(0.01, 0.99), st.floats(1, 9), st.integers(1, 130), st.data())
def test_source_and_target_hold_each_token_once(
    text: list[int], key: ExampleKey, rate: float, mean: float, window: int, data: st.DataObject
):
    stride = data.draw(st.integers(1, window))
    objective = make(
        window_tokens=window, stride_tokens=stride, corrupted_fraction=rate, mean_span=mean
    )
    found: list[int] = []
    for item in objective.items({"text": text}):
        example = objective.example(item, key)
        assert example.source_ids is not None
        source, labels = example.source_ids.tolist(), example.labels.tolist()
        spans = spans_of(objective, labels)
        dropped, count = objective.counts(len(item.ids))
        assert [span[0] for span in spans] == objective.sentinels[:count]
        assert [id_ for id_ in source if id_ in objective.sentinels] == objective.sentinels[:count]
        assert all(len(span) > 1 for span in spans)
        assert sum(map(len, spans)) - count == dropped
        assert source.count(objective.special.eos) == 1 == labels.count(objective.special.eos)
        assert source[-1] == objective.special.eos
        assert example.input_ids.tolist() == [objective.start_id, *labels[:-1]]
        assert objective.real_count(item) == len(source) + len(labels)
        found += text_of(objective, example)[length_of(item.context_ids) :]
    assert found == text


def test_lengths_are_those_that_t5_was_trained_with():
    """568 tokens become 512 and 114 (Raffel et al.'s code, for 0.15 and 3)."""
    [item] = make().items({"text": [6] * 568})
    example = make().example(item, ExampleKey(1, 0, 0))
    assert example.source_ids is not None
    assert (len(example.source_ids), len(example.labels)) == (512, 114)


@pytest.mark.parametrize(("rate", "mean"), [(0.15, 3.0), (0.5, 1.0), (0.3, 8.0)])
def test_counts_are_the_rates(rate: float, mean: float):
    objective = make(corrupted_fraction=rate, mean_span=mean, window_tokens=240)
    dropped, spans = objective.counts(240)
    assert dropped == pytest.approx(240 * rate, abs=0.5)
    assert dropped / spans == pytest.approx(mean, rel=0.02)


def test_each_place_but_the_first_is_left_out_as_often():
    objective = make(corrupted_fraction=0.5)
    [item] = objective.items({"text": list(range(5, 15)) * 2})
    counts = np.zeros(20)
    for number in range(2000):
        labels = objective.example(item, ExampleKey(1, 0, number)).labels.tolist()
        source = objective.example(item, ExampleKey(1, 0, number)).source_ids
        assert source is not None
        at = 0
        for id_ in source.tolist()[:-1]:
            if id_ in objective.sentinels:
                size = len(spans_of(objective, labels)[objective.sentinels.index(id_)]) - 1
                counts[at : at + size] += 1
                at += size
            else:
                at += 1
    assert counts[0] == 0  # as T5 has it: a text begins with what is kept
    assert counts[-1] == 2000  # and ends with what isn't
    assert counts[3:-4].min() > 600
    assert counts.sum() == 2000 * 10


def test_what_is_left_out_follows_from_seed_epoch_and_example():
    objective = make()
    [item] = objective.items({"text": tokenizer().encode([LETTERS * 5])[0]})

    def labels(*key: int) -> list[int]:
        return objective.example(item, ExampleKey(*key)).labels.tolist()

    assert labels(1, 2, 3) == labels(1, 2, 3)
    assert len({tuple(labels(*key)) for key in ((1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4))}) == 4


def test_masks_of_a_line_stand_for_spans():
    known, objective = tokenizer(), make()
    a, b, c = known.encode(["abc"])[0]
    first, second = objective.sentinels[:2]
    mask = known.special.mask
    assert mask is not None
    prompt = objective.prompt([a, mask, mask, b, mask])
    assert prompt.source_ids is not None
    assert prompt.source_ids.tolist() == [a, first, b, second, known.special.eos]
    assert prompt.labels.tolist() == [IGNORE_INDEX]
    for answer, text in (
        ([first, c, c, second, a], "accba"),
        ([second, a, first, c], "acba"),
        ([c, first, b], "abb"),  # the other span isn't answered
        ([], "ab"),
    ):
        assert known.decode(objective.filled(prompt, answer)) == text


@pytest.mark.bad_input
def test_too_few_sentinels_are_refused():
    with pytest.raises(UserError, match="has none: use tokenizer=char, byte or bpe"):
        make(sentinels=0)
    with pytest.raises(UserError, match="has 35 spans, and there are 9 sentinel tokens: lower it"):
        make(sentinels=9)
    few = tokenizer(2)
    objective = make(sentinels=2, window_tokens=30)
    mask = few.special.mask
    assert mask is not None
    with pytest.raises(UserError, match="a line can have 2 masks"):
        objective.prompt([mask, 5, mask, 5, mask])
