"""What each task reads and predicts, token by token."""

from collections import Counter
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everytoken.batch import IGNORE_INDEX
from everytoken.data.collate import Example, collate
from everytoken.data.masked_lm import MaskedLM
from everytoken.data.objective import CausalLM, ExampleKey, Long, Objective, Record, Seq2Seq
from everytoken.tokenizer.special import SpecialIds

PAD, BOS, EOS, UNK, MASK = range(5)
SPECIAL = SpecialIds(PAD, BOS, EOS, UNK, MASK)
VOCABULARY = 50
KEY = ExampleKey(seed=0, epoch=0, example=0)
NONE = IGNORE_INDEX

properties = settings(max_examples=50, deadline=None)
texts = st.lists(st.integers(5, VOCABULARY - 1), max_size=40)
windows = st.integers(1, 50)
small = st.integers(1, 9)
fractions = st.floats(0.001, 1.0)
longs = st.sampled_from(get_args(Long))
special, vocabulary = st.just(SPECIAL), st.just(VOCABULARY)
keys = st.builds(ExampleKey, st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
objectives: st.SearchStrategy[Objective] = st.one_of(
    st.builds(
        Seq2Seq, special, vocabulary, st.none(), windows, st.sampled_from(["truncate", "drop"])
    ),
    st.builds(CausalLM, special, vocabulary, small, small, longs),
    st.builds(MaskedLM, special, vocabulary, small, small, longs, fractions),
)
records = st.fixed_dictionaries({"text": texts, "source": texts, "target": texts})


def examples(objective: Objective, record: Record, key: ExampleKey = KEY) -> list[Example]:
    return [objective.example(item, key) for item in objective.items(record)]


def only(examples: list[Example]) -> tuple[list[int], list[int]]:
    """Inputs and labels of the only example."""
    (example,) = examples
    return example.input_ids.tolist(), example.labels.tolist()


def masked_lm(
    window_tokens: int = 10, corrupted_fraction: float = 0.15, vocabulary: int = VOCABULARY
) -> MaskedLM:
    return MaskedLM(
        SPECIAL, vocabulary, window_tokens, window_tokens, "windows", corrupted_fraction
    )


def causal_lm(window_tokens: int, stride_tokens: int | None = None) -> CausalLM:
    stride_tokens = stride_tokens or window_tokens
    return CausalLM(SPECIAL, VOCABULARY, window_tokens, stride_tokens, "windows")


seq2seq = Seq2Seq(SPECIAL, VOCABULARY, None, 1000, "refuse")


# All tasks


@properties
@given(objectives, records)
def test_real_count_is_that_of_the_example(objective: Objective, record: Record) -> None:
    for item in objective.items(record):
        example = objective.example(item, KEY)
        sides = [example.input_ids, *([] if example.source_ids is None else [example.source_ids])]
        assert objective.real_count(item) == sum(len(side) for side in sides) > 0


@properties
@given(objectives, records, keys)
def test_every_example_has_a_target_and_a_label_per_input(
    objective: Objective, record: Record, key: ExampleKey
) -> None:
    for example in examples(objective, record, key):
        assert example.labels.shape == example.input_ids.shape
        assert (example.labels != NONE).any()
        assert (example.source_ids is not None) == objective.has_source


@properties
@given(objectives, records, keys)
def test_examples_of_an_item_leave_the_item_as_it_was(
    objective: Objective, record: Record, key: ExampleKey
) -> None:
    items = objective.items(record)
    before = str(items)
    for item in items:
        objective.example(item, key)
    assert str(items) == before


@properties
@given(objectives, records)
def test_examples_can_be_collated(objective: Objective, record: Record) -> None:
    batch = collate(examples(objective, record), PAD)
    counts = [objective.real_count(item) for item in objective.items(record)]
    assert batch.real_count == sum(counts)
    assert batch.input_ids.dtype == batch.labels.dtype


# Sequence to sequence


def test_seq2seq_predicts_the_target_one_ahead() -> None:
    record = {"source": [10, 11], "target": [20, 21, 22]}
    objective = seq2seq
    (item,) = objective.items(record)
    example = objective.example(item, KEY)
    assert example.source_ids is not None
    assert example.source_ids.tolist() == [10, 11, EOS]
    assert example.input_ids.tolist() == [BOS, 20, 21, 22]
    assert example.labels.tolist() == [20, 21, 22, EOS]
    assert objective.real_count(item) == 7


def test_seq2seq_of_empty_texts_predicts_the_end() -> None:
    (example,) = examples(seq2seq, {"source": [], "target": []})
    assert example.source_ids is not None
    assert example.source_ids.tolist() == [EOS]
    assert example.input_ids.tolist() == [BOS]
    assert example.labels.tolist() == [EOS]


def test_seq2seq_starts_as_a_pretrained_model_does() -> None:
    objective = Seq2Seq(SPECIAL, VOCABULARY, 7, 1000, "refuse")
    (example,) = examples(objective, {"source": [10], "target": [20]})
    assert example.input_ids.tolist() == [7, 20]
    assert objective.prompt([10]).input_ids.tolist() == [7]


@properties
@given(records)
def test_seq2seq_predicts_every_target_token_and_the_end(record: Record) -> None:
    (example,) = examples(seq2seq, record)
    assert example.labels.tolist() == [*record["target"], EOS]
    assert example.input_ids.tolist() == [BOS, *record["target"]]


def test_seq2seq_prompt_is_the_source_and_the_begin() -> None:
    prompt = seq2seq.prompt([10, 11])
    assert prompt.source_ids is not None
    assert prompt.source_ids.tolist() == [10, 11, EOS]
    assert prompt.input_ids.tolist() == [BOS]
    assert prompt.labels.tolist() == [NONE]


# Causal language model


def test_causal_windows_follow_each_other() -> None:
    objective = causal_lm(3)
    first, second = examples(objective, {"text": [10, 11, 12, 13, 14]})
    assert first.input_ids.tolist() == [BOS, 10, 11]
    assert first.labels.tolist() == [10, 11, 12]
    assert second.input_ids.tolist() == [12, 13, 14]
    assert second.labels.tolist() == [13, 14, EOS]


def test_a_text_that_fills_its_window_is_one_window() -> None:
    objective = causal_lm(3)
    assert only(examples(objective, {"text": [10, 11]})) == ([BOS, 10, 11], [10, 11, EOS])
    assert only(examples(objective, {"text": []})) == ([BOS], [EOS])


@properties
@given(texts, windows)
def test_causal_predicts_every_token_once_from_the_one_before(text: list[int], window: int) -> None:
    parts = examples(causal_lm(window), {"text": text})
    assert np.concatenate([part.labels for part in parts]).tolist() == [*text, EOS]
    assert np.concatenate([part.input_ids for part in parts]).tolist() == [BOS, *text]


@properties
@given(texts, windows)
def test_causal_windows_are_full_but_for_the_last(text: list[int], window: int) -> None:
    *others, last = examples(causal_lm(window), {"text": text})
    assert all(len(part.input_ids) == window for part in others)
    assert 1 <= len(last.input_ids) <= window


@properties
@given(texts)
def test_causal_prompt_is_what_training_reads_before_the_next_token(text: list[int]) -> None:
    objective = causal_lm(100)
    prompt = objective.prompt(text)
    inputs, _ = only(examples(objective, {"text": text}))
    assert prompt.input_ids.tolist() == inputs == [BOS, *text]
    assert prompt.labels.tolist() == [NONE] * len(inputs)
    assert prompt.source_ids is None


# Masked language model


@properties
@given(texts, windows, fractions, keys)
def test_masked_windows_are_the_text_and_the_end(
    text: list[int], window: int, fraction: float, key: ExampleKey
) -> None:
    # Where there is a label it is the original; elsewhere the input is.
    parts = examples(masked_lm(window, fraction), {"text": text}, key)
    restored = [np.where(part.labels == NONE, part.input_ids, part.labels) for part in parts]
    assert np.concatenate(restored).tolist() == [*text, EOS]
    assert all(len(part.input_ids) == window for part in parts[:-1])
    assert 1 <= len(parts[-1].input_ids) <= window


@properties
@given(texts, windows, fractions, keys)
def test_masked_predicts_its_fraction_but_at_least_one(
    text: list[int], window: int, fraction: float, key: ExampleKey
) -> None:
    for part in examples(masked_lm(window, fraction), {"text": text}, key):
        count = (part.labels != NONE).sum()
        assert count == pytest.approx(fraction * len(part.labels), abs=0.5001) or count == 1
        assert count >= 1


def test_masked_number_of_targets() -> None:
    text = list(range(10, 29))  # 20 tokens with the end
    for fraction, count in ((0.15, 3), (0.5, 10), (1.0, 20), (0.01, 1)):
        _, labels = only(examples(masked_lm(20, fraction), {"text": text}))
        assert sum(label != NONE for label in labels) == count


def test_masked_corrupts_80_10_10() -> None:
    # 20 000 targets of 40 000 tokens in a vocabulary of 10 005: a random token is a new one.
    text = np.random.default_rng(1).integers(5, 10_005, 39_999)
    objective = masked_lm(40_000, 0.5, vocabulary=10_005)
    (item,) = objective.items({"text": text.tolist()})
    example = objective.example(item, KEY)
    chosen = example.labels != NONE
    inputs, originals = example.input_ids[chosen], example.labels[chosen]
    masked, same = inputs == MASK, inputs == originals
    assert chosen.sum() == 20_000
    # Five standard deviations.
    assert masked.mean() == pytest.approx(0.8, abs=0.0141)
    assert same.mean() == pytest.approx(0.1, abs=0.0106)
    assert (~masked & ~same).mean() == pytest.approx(0.1, abs=0.0106)


def test_masked_random_tokens_are_all_tokens_but_the_special_ones() -> None:
    # The text is one token, so whatever else stands there was drawn.
    objective = masked_lm(50_000, 1.0, vocabulary=15)
    (item,) = objective.items({"text": [5] * 49_999})
    drawn = Counter(objective.example(item, KEY).input_ids[:-1].tolist())
    assert set(drawn) == {MASK, *range(5, 15)}
    # 500 of each are expected; their standard deviation is 22.
    assert [drawn[token] for token in range(6, 15)] == pytest.approx([500] * 9, abs=110)


def test_masked_chooses_every_position_as_often() -> None:
    objective = masked_lm(10, 0.2)
    (item,) = objective.items({"text": list(range(10, 19))})
    labels = [objective.example(item, ExampleKey(0, epoch, 0)).labels for epoch in range(2000)]
    times = (np.array(labels) != NONE).sum(axis=0)
    # 400 of each are expected; their standard deviation is 18.
    assert times.tolist() == pytest.approx([400] * 10, abs=90)


@properties
@given(texts, windows, keys)
def test_masked_draws_the_same_for_the_same_key(
    text: list[int], window: int, key: ExampleKey
) -> None:
    one, other = (examples(masked_lm(window), {"text": text}, key) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        assert a.input_ids.tolist() == b.input_ids.tolist()
        assert a.labels.tolist() == b.labels.tolist()


def test_masked_draws_anew_for_each_seed_epoch_and_example() -> None:
    record = {"text": list(range(10, 49))}
    drawn = {
        str(only(examples(masked_lm(40), record, ExampleKey(*key)))) for key in np.ndindex(3, 3, 3)
    }
    assert len(drawn) == 27


def test_masked_prompt_asks_for_its_masks() -> None:
    prompt = masked_lm().prompt([10, MASK, 11, MASK])
    assert prompt.input_ids.tolist() == [10, MASK, 11, MASK, EOS]
    assert [label != NONE for label in prompt.labels] == [False, True, False, True, False]
    assert prompt.source_ids is None


# Long examples


def long_lm(kind: type, window: int, stride: int, long: Long) -> CausalLM | MaskedLM:
    more = () if kind is CausalLM else (0.3,)
    return kind(SPECIAL, VOCABULARY, window, stride, long, *more)


def test_overlapping_causal_windows_predict_nothing_twice() -> None:
    objective = long_lm(CausalLM, 4, 2, "windows")
    first, second, third = examples(objective, {"text": [10, 11, 12, 13, 14, 15]})
    assert (first.input_ids.tolist(), first.labels.tolist()) == (
        [BOS, 10, 11, 12],
        [10, 11, 12, 13],
    )
    assert (second.input_ids.tolist(), second.labels.tolist()) == (
        [11, 12, 13, 14],
        [NONE, NONE, 14, 15],
    )
    assert (third.input_ids.tolist(), third.labels.tolist()) == ([13, 14, 15], [NONE, NONE, EOS])


@properties
@given(texts, windows, windows)
def test_causal_predicts_every_token_once_with_any_stride(
    text: list[int], window: int, stride: int
) -> None:
    ids = [BOS, *text, EOS]
    predicted: list[int] = []
    objective = long_lm(CausalLM, window, stride, "windows")
    for number, part in enumerate(examples(objective, {"text": text})):
        begin = min(number * stride, len(predicted))
        end = begin + len(part.input_ids)
        assert part.input_ids.tolist() == ids[begin:end]
        assert len(part.input_ids) <= window
        is_new = part.labels != NONE
        assert is_new.tolist() == [place >= len(predicted) for place in range(begin, end)]
        assert part.labels[is_new].tolist() == ids[len(predicted) + 1 : end + 1]
        predicted += part.labels[is_new].tolist()
    assert predicted == [*text, EOS]


@properties
@given(texts, windows, windows, keys)
def test_masked_windows_draw_from_what_no_other_window_draws_from(
    text: list[int], window: int, stride: int, key: ExampleKey
) -> None:
    ids, done = [*text, EOS], 0
    objective = long_lm(MaskedLM, window, stride, "windows")
    for number, part in enumerate(examples(objective, {"text": text}, key)):
        begin = min(number * stride, done)
        restored = np.where(part.labels == NONE, part.input_ids, part.labels).tolist()
        assert restored == ids[begin : begin + len(restored)]
        assert part.input_ids[: done - begin].tolist() == ids[begin:done]
        assert (part.labels[: done - begin] == NONE).all()
        assert len(restored) <= window
        done = begin + len(restored)
    assert done == len(ids)


@pytest.mark.parametrize("kind", [CausalLM, MaskedLM])
@properties
@given(text=texts, window=windows)
def test_windows_that_do_not_overlap_have_no_context(
    kind: type, text: list[int], window: int
) -> None:
    items = long_lm(kind, window, window, "windows").items({"text": text})
    assert all(item.context_ids is None for item in items)


@pytest.mark.parametrize("kind", [CausalLM, MaskedLM])
@properties
@given(text=texts, window=windows)
def test_texts_of_more_than_a_window_are_too_long(kind: type, text: list[int], window: int) -> None:
    objective, record = long_lm(kind, window, window, "windows"), {"text": text}
    assert objective.is_too_long(record) == (len(objective.items(record)) > 1)


def test_a_truncated_text_ends_without_end_token() -> None:
    record = {"text": [10, 11, 12, 13]}
    causal, masked = (long_lm(kind, 3, 3, "truncate") for kind in (CausalLM, MaskedLM))
    assert only(examples(causal, record)) == ([BOS, 10, 11], [10, 11, 12])
    (item,) = masked.items(record)
    assert item.ids.tolist() == [10, 11, 12]


def test_a_truncated_pair_keeps_the_end_of_its_source_only() -> None:
    objective = Seq2Seq(SPECIAL, VOCABULARY, None, 3, "truncate")
    (example,) = examples(objective, {"source": [5, 6, 7], "target": [8, 9, 10]})
    assert example.source_ids is not None
    assert example.source_ids.tolist() == [5, 6, EOS]
    assert example.input_ids.tolist() == [BOS, 8, 9]
    assert example.labels.tolist() == [8, 9, 10]


@properties
@given(records, windows)
def test_truncation_leaves_short_pairs_as_they_are_and_cuts_others_to_the_limit(
    record: Record, limit: int
) -> None:
    whole = examples(seq2seq, record)[0]
    objective = Seq2Seq(SPECIAL, VOCABULARY, None, limit, "truncate")
    cut = examples(objective, record)[0]
    assert cut.source_ids is not None
    assert whole.source_ids is not None
    fits = max(len(whole.input_ids), len(whole.source_ids)) <= limit
    assert objective.is_too_long(record) != fits
    assert max(len(cut.input_ids), len(cut.source_ids)) <= limit
    if fits:
        assert cut.labels.tolist() == whole.labels.tolist()
        assert cut.source_ids.tolist() == whole.source_ids.tolist()
