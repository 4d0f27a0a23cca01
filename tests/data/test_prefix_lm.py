"""Prefix language modelling: what follows a prefix is learned, and evaluation knows how much."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everytoken.batch import IGNORE_INDEX
from everytoken.data.item import Reference
from everytoken.data.objective import CausalLM, ExampleKey
from everytoken.data.prefix_lm import PrefixLM
from everytoken.data.references import referenced
from everytoken.tokenizer.learned import train_byte, train_char
from everytoken.tokenizer.tokenizer import Tokenizer

WINDOW, STRIDE = 8, 5
TEXT = "Añ€🙂" * 5


def make(tokenizer: Tokenizer, kind: type[CausalLM] = PrefixLM) -> CausalLM:
    return kind(tokenizer.special, len(tokenizer), WINDOW, STRIDE, "windows")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(5, 9), max_size=40), st.integers(0, 9), st.integers(0, 9))
def test_what_follows_the_prefix_is_learned_as_a_causal_model_does(
    text: list[int], epoch: int, number: int
):
    tokenizer = train_char(["abcde"])
    ours, causal = make(tokenizer), make(tokenizer, CausalLM)
    key = ExampleKey(1, epoch, number)
    items = ours.items({"text": text})
    for item, same in zip(items, causal.items({"text": text}), strict=True):
        example, whole = ours.example(item, key), causal.example(same, key)
        assert example.input_ids.tolist() == whole.input_ids.tolist()
        labels, all_labels = example.labels.tolist(), whole.labels.tolist()
        count = sum(label != IGNORE_INDEX for label in labels)
        assert 1 <= count <= len(item.ids) - 1
        assert labels[-count:] == all_labels[-count:]
        assert set(labels[:-count]) <= {IGNORE_INDEX}
        assert ours.real_count(item) == causal.real_count(same) == len(labels)


def test_all_lengths_of_a_prefix_are_drawn_alike_by_seed_epoch_and_example():
    objective = make(train_char(["a"]))
    [item] = objective.items({"text": [5] * 4})
    drawn = [
        int((objective.example(item, ExampleKey(1, 0, i)).labels != IGNORE_INDEX).sum())
        for i in range(2000)
    ]
    assert {*drawn} == {1, 2, 3, 4, 5}
    assert min(Counter(drawn).values()) > 320
    assert drawn[7] == (objective.example(item, ExampleKey(1, 0, 7)).labels != IGNORE_INDEX).sum()


@pytest.mark.parametrize("tokenizer", [train_char([TEXT]), train_byte([])])
def test_evaluation_has_one_prefix_and_counts_the_bytes_of_the_rest(tokenizer: Tokenizer):
    objective = make(tokenizer)
    ids = tokenizer.encode([TEXT])
    items = objective.items({"text": ids[0]})
    found = referenced(items, [TEXT], ids, 3, objective, tokenizer)
    total = 0
    for item in found:
        assert isinstance(item.reference, Reference)
        first, other = (objective.example(item, ExampleKey(seed, 0, 0)) for seed in (1, 2))
        assert first.labels.tolist() == other.labels.tolist()
        learned = [id_ for id_ in first.labels.tolist() if id_ != IGNORE_INDEX]
        assert item.reference.answer_tokens == len(learned)
        starts = first.labels.tolist()[item.reference.prompt_tokens - 1 :]
        assert starts == learned
        sizes = [len(tokenizer.decode([id_]).encode()) for id_ in learned]
        if len(tokenizer) < 20:  # bytes of a letter count where the letter ends
            assert item.reference.byte_count == sum(sizes)
        total += item.reference.byte_count
    assert 0 < total < len(TEXT.encode())
