"""Prefix language modelling: what follows a prefix is learned, and evaluation knows how much."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everytoken.batch import IGNORE_INDEX
from everytoken.data.item import Reference
from everytoken.data.objective import CausalLM, ExampleKey, Long
from everytoken.data.prefix_lm import PrefixLM
from everytoken.data.references import referenced
from everytoken.tokenizer.learned import train_byte, train_char
from everytoken.tokenizer.tokenizer import Tokenizer

WINDOW, STRIDE = 8, 5
TEXT = "Añ€🙂" * 5


def make(tokenizer: Tokenizer, kind: type[CausalLM] = PrefixLM) -> CausalLM:
    return kind(tokenizer.special, len(tokenizer), WINDOW, STRIDE, "windows")


def two_way(tokenizer: Tokenizer, *fields: str, long: Long = "windows", window: int = 8):
    parts = (tokenizer.special, len(tokenizer), window, window, long)
    return PrefixLM(*parts, two_way=True, fields=fields or None)


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
        assert example.prefix_length is None
        # What is seen both ways ends where the first target is predicted.
        seen = two_way(tokenizer).example(item, key).prefix_length
        assert seen == len(labels) - count + 1


def test_all_of_a_prompt_is_its_prefix():
    tokenizer = train_char(["abcde"])
    bos, eos = tokenizer.special.bos, tokenizer.special.eos
    for fields, ids in (((), [bos, 5, 6]), (("source", "target"), [bos, 5, 6, eos])):
        prompt = two_way(tokenizer, *fields).prompt([5, 6])
        assert prompt.input_ids.tolist() == ids
        assert prompt.prefix_length == len(ids)
    assert make(tokenizer).prompt([5, 6]).prefix_length is None


def test_of_a_pair_the_target_is_learned_after_the_whole_source():
    tokenizer = train_char(["abcde"])
    bos, eos = tokenizer.special.bos, tokenizer.special.eos
    objective = two_way(tokenizer, "source", "target")
    record = {"source": [5, 6, 7], "target": [8, 9]}
    [item] = objective.items(record)
    example = objective.example(item, ExampleKey(1, 0, 0))
    assert example.input_ids.tolist() == [bos, 5, 6, 7, eos, 8, 9]
    assert example.labels.tolist() == [IGNORE_INDEX] * 4 + [8, 9, eos]
    assert example.prefix_length == 5
    assert objective.real_count(item) == 7
    [found] = referenced([item], ["abc", "de"], [*record.values()], 3, objective, tokenizer)
    assert found.reference == Reference(3, 5, 3, 2, "de")
    again = objective.example(found, ExampleKey(2, 0, 0))
    assert again.labels.tolist() == example.labels.tolist()


@pytest.mark.parametrize(("room", "lengths"), [(9, (3, 4)), (8, (3, 3)), (5, (1, 2))])
def test_long_pairs_are_refused_or_lose_the_end_of_the_longer_side(
    room: int, lengths: tuple[int, int]
):
    tokenizer = train_char(["abcde"])
    record = {"source": [5, 6, 7], "target": [8, 9, 8, 9]}
    objective = two_way(tokenizer, "source", "target", long="truncate", window=room)
    assert objective.is_too_long(record) == (room < 9)
    [item] = objective.items(record)
    assert item.context_ids is not None
    assert len(item.context_ids) - 1 == lengths[0]
    ends = int(lengths[1] == 4)  # a target that was cut doesn't end there
    assert len(item.ids) - 1 - ends == lengths[1]
    assert objective.real_count(item) <= room
    assert two_way(tokenizer, "source", "target").long == "refuse"


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
