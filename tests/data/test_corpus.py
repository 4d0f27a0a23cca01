"""Texts are checked, counted and tokenized; what is too long becomes what the user says."""

import re
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from everytoken.audit.checks_data import windows as audit_windows
from everytoken.corpora.long_text import LongText
from everytoken.data import corpus as corpora
from everytoken.data import marked
from everytoken.data.corpus import Corpus
from everytoken.data.counts import Counter, Counts
from everytoken.data.objective import CausalLM, ExampleKey, Item, Long, Objective, Seq2Seq
from everytoken.errors import UserError
from everytoken.tokenizer.learned import SPECIAL, train_char
from everytoken.tokenizer.tokenizer import Tokenizer

CHARACTERS = train_char(["abcdefghijklmnopqrstuvwxyz "])


class Source:
    """Any records."""

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        self.records = records
        self.fields: tuple[str, ...] = ("text",)

    def examples(self, split: str) -> Iterable[dict[str, Any]]:
        return self.records


def tokenized(
    records: Iterable[dict[str, Any]],
    objective: Objective,
    tokenizer: Tokenizer = CHARACTERS,
) -> tuple[list[Item], Counts]:
    counter = Counter(tokenizer.special.unk)
    fields = ("source", "target") if objective.has_source else ("text",)
    made = Corpus(Source(records), fields, None).items("train", tokenizer, objective, counter)
    items = [item for item, _ in made]
    return items, Counts(**counter.finish())


def causal(long: Long, window: int = 5, stride: int = 5) -> CausalLM:
    return CausalLM(CHARACTERS.special, len(CHARACTERS), window, stride, long)


def pairs(long: Long, limit: int = 5) -> Seq2Seq:
    return Seq2Seq(CHARACTERS.special, len(CHARACTERS), None, limit, long)


def texts(*words: str) -> list[dict[str, str]]:
    return [{"text": word} for word in words]


# What is counted

words = st.text("abc€ñ", max_size=8)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(words, words), min_size=1), st.integers(1, 5))
def test_counts_are_those_of_the_texts(records: list[tuple[str, str]], chunk: int) -> None:
    named = [{"source": source, "target": target} for source, target in records]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "CHUNK_EXAMPLES", chunk)
        items, counts = tokenized(named, pairs("refuse", limit=100))
    whole = "".join(source + target for source, target in records)
    assert len(items) == counts.records == len(records)
    assert counts.bytes == len(whole.encode())
    assert counts.tokens == len(whole)
    assert counts.unknown == whole.count("€") + whole.count("ñ")
    assert counts.duplicates == len(records) - len(set(records))
    assert counts.too_long == counts.lost == 0


def test_the_checksum_is_of_the_texts_in_their_order() -> None:
    def checksum(*records: list[str]) -> str:
        counter = Counter(None)
        for record in records:
            counter.add(record, [[3]] * len(record))
        return counter.finish()["checksum"]

    others = [[["ab"], ["c"]], [["c"], ["ab"]], [["a"], ["bc"]], [["ab", "c"]], [["a", "bc"]]]
    assert len({checksum(*records) for records in others}) == 3  # all records have as many texts
    assert checksum(*others[0]) == checksum(*others[0])


def test_a_tokenizer_that_knows_every_text_has_no_unknown_tokens() -> None:
    counter = Counter(None)
    counter.add(["abc"], [[3, 3, 3]])
    assert counter.finish()["unknown"] == 0


def test_texts_are_tokenized_a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    encode = Tokenizer.encode

    def watched(self: Tokenizer, texts: list[str]) -> list[list[int]]:
        sizes.append(len(texts))
        return encode(self, texts)

    monkeypatch.setattr(Tokenizer, "encode", watched)
    monkeypatch.setattr(corpora, "CHUNK_EXAMPLES", 3)
    monkeypatch.setattr(corpora, "CHUNK_CHARACTERS", 10)
    tokenized(texts("a", "b", "c", "d", "abcdefghi", "ab", "e"), causal("windows"))
    assert sizes == [3, 2, 2, 7]  # the last are a sample that is decoded again


def test_what_the_source_left_out_is_counted_too() -> None:
    source: Any = Source(texts("a"))
    source.dropped = {"train": {"too dull": 3}}
    counter, corpus = Counter(None), Corpus(source, ("text",), None)
    assert len(list(corpus.items("train", CHARACTERS, causal("windows"), counter))) == 1
    assert counter.finish()["dropped"] == {"too dull": 3}


# What is too long

LONG_TEXTS = texts("abc", "abcdefgh", "ab", "abcdefghijk", "abcd")


def test_windows_lose_nothing() -> None:
    for stride in (5, 2):
        _, counts = tokenized(LONG_TEXTS, causal("windows", stride=stride))
        assert (counts.too_long, counts.lost) == (2, 0)


def test_truncated_texts_are_counted_with_what_they_lose() -> None:
    items, counts = tokenized(LONG_TEXTS, causal("truncate"))
    assert [CHARACTERS.decode(item.ids) for item in items] == [
        "abc",
        "abcde",
        "ab",
        "abcde",
        "abcd",
    ]
    assert (counts.too_long, counts.lost) == (2, 3 + 6)


def test_truncated_pairs_are_counted_with_what_they_lose() -> None:
    records = [{"source": "abc", "target": "abcdefgh"}, {"source": "abcdef", "target": "a"}]
    items, counts = tokenized(records, pairs("truncate"))
    assert len(items) == 2
    assert (counts.too_long, counts.lost) == (2, 3 + 2)


@pytest.mark.parametrize("objective", [causal("truncate", 1, 1), pairs("truncate", 1)])
def test_truncated_to_one_token_there_still_is_a_label(objective: Objective) -> None:
    record = {"text": "abc", "source": "abc", "target": "bcd"}
    [item], _ = tokenized([record], objective)
    labels = objective.example(item, ExampleKey(0, 0, 0)).labels
    assert CHARACTERS.decode(labels.tolist()) in ("a", "b")


def test_a_decoder_that_begins_with_pad_keeps_no_token_more() -> None:
    """As T5 and Marian do."""
    objective = Seq2Seq(CHARACTERS.special, len(CHARACTERS), CHARACTERS.special.pad, 5, "truncate")
    _, counts = tokenized([{"source": "abc", "target": "abcdefgh"}], objective)
    assert (counts.too_long, counts.lost) == (1, 3)


def test_dropped_texts_are_counted() -> None:
    items, counts = tokenized(LONG_TEXTS, causal("drop"))
    assert [CHARACTERS.decode(item.ids) for item in items] == ["abc", "ab", "abcd"]
    assert (counts.records, counts.too_long, counts.lost) == (5, 2, 8 + 11)


@pytest.mark.bad_input
def test_refused_texts_are_counted_and_both_ways_out_are_told() -> None:
    with pytest.raises(UserError) as refusal:
        tokenized(LONG_TEXTS, causal("refuse"))
    assert str(refusal.value) == (
        "2 of 5 train examples are longer than task.objective.window_tokens allows, example 1 "
        "first: raise it, or set task.objective.long=truncate or drop"
    )
    with pytest.raises(UserError, match=r"1 of 1 .* task\.objective\.max_tokens allows, example 0"):
        tokenized([{"source": "a", "target": "abcde"}], pairs("refuse"))
    assert len(tokenized([{"source": "a", "target": "abcd"}], pairs("refuse"))[0]) == 1


@pytest.mark.bad_input
def test_if_all_are_dropped_nothing_is_left() -> None:
    with pytest.raises(UserError, match=r"no train example is left: 2 of 2 are longer .*long=drop"):
        tokenized(texts("abcdefgh", "abcdefghi"), causal("drop"))


def test_a_very_long_text_is_cut_into_windows() -> None:
    items, counts = tokenized(texts("a" * 300_000), causal("windows", 1000, 1000))
    assert len(items) == 301
    assert (counts.records, counts.tokens, counts.lost) == (1, 300_000, 0)


@pytest.mark.parametrize("long", ["truncate", "drop", "refuse"])
def test_the_audit_of_windows_says_that_the_user_wants_none(long: Long) -> None:
    data = SimpleNamespace(objective=causal(long), fields=["text"])
    train = SimpleNamespace(lengths=np.array([5, 2]))
    subject: Any = SimpleNamespace(data=data, train=train, tokenizer=CHARACTERS, sees_later=False)
    finding = audit_windows(subject)
    assert not finding.applies
    assert finding.difference == 0.0
    assert f"task.objective.long={long}" in finding.note
    data.objective = causal("windows", stride=3)
    assert audit_windows(subject).applies
    assert audit_windows(subject).difference == 0.0


# Bad input


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("value", "mistake"),
    [
        (None, "is None, which is no text"),
        (3, "is 3, which is no text"),
        (float("nan"), "is nan, which is no text"),
        (b"ab", "is b'ab', which is no text"),
        ("ab\ud83d", "has half a character .* at 2"),
    ],
)
def test_what_is_no_text_is_named(value: Any, mistake: str) -> None:
    with pytest.raises(UserError, match=f"text of train example 1 {mistake}"):
        tokenized([{"text": "a"}, {"text": value}], causal("windows"))


@pytest.mark.bad_input
@pytest.mark.parametrize("record", ["text", ("a", "b"), None, 5])
def test_an_example_that_is_no_dict_is_shown_one(record: Any) -> None:
    with pytest.raises(UserError) as error:
        tokenized([{"text": "a"}, record], causal("windows"))
    assert f"train example 1 of data.corpus is {record!r}: it must be a dict" in str(error.value)
    assert "{'text': '…'}" in str(error.value)


@pytest.mark.bad_input
@pytest.mark.parametrize("number", [0, 2])
def test_an_error_in_a_source_is_told_as_its_own(number: int) -> None:
    class Broken(Source):
        def examples(self, split: str) -> Iterable[dict[str, Any]]:
            yield from texts("a", "b")[:number]
            raise ValueError("no such\nthing")

    with pytest.raises(UserError) as error:
        list(Corpus(Broken([]), ["text"], None).records("val"))
    raised = r"data\.corpus: Broken\.examples\('val'\) raised ValueError: no such thing"
    assert re.fullmatch(rf"{raised} \(test_corpus\.py, line \d+\)", str(error.value))


@pytest.mark.bad_input
def test_a_source_that_returns_nothing_is_told() -> None:
    nothing: Any = Source([])
    nothing.examples = lambda split: None
    with pytest.raises(UserError, match=r"data\.corpus: Source\.examples\('train'\).*not iterable"):
        list(Corpus(nothing, ["text"], None).records("train"))


def with_gaps(words: Sequence[str]) -> Tokenizer:
    """A tokenizer whose ids aren't those below the size of its vocabulary."""
    vocabulary = {
        token: i for i, token in enumerate(["<pad>", "<bos>", "<eos>", "<unk>", "<mask>"])
    }
    vocabulary |= {word: 6 + i for i, word in enumerate(words)}
    engine = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    return Tokenizer(engine, SPECIAL)


@pytest.mark.bad_input
def test_an_id_beyond_the_vocabulary_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tokenizer, "__len__", lambda self: self.engine.get_vocab_size())
    with pytest.raises(UserError, match=r"train example 1 the id 7, but has only 7 tokens \(0 to"):
        tokenized(texts("none", "lion tiger"), causal("windows"), with_gaps(["lion", "tiger"]))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("long", "window", "stride"), [("windows", 50, 20), ("truncate", 50, 50)])
def test_a_text_that_is_not_in_memory_gives_the_same_items(
    split: str, long: Long, window: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that memory doesn't hold, and a long text of a record, beside short ones."""
    words = "the quick brown ß fox " * 40
    lazy = LongText(lambda: iter([words[:7], words[7:100], words[100:]]))
    others = ["one", words + "x", "two"]

    def made(*given: Any) -> tuple[list[Any], dict[str, Any]]:
        counter = Counter(CHARACTERS.special.unk)
        corpus = Corpus(Source([{"text": text} for text in given]), ("text",), None)
        items = [*corpus.items(split, CHARACTERS, causal(long, window, stride), counter)]
        plain = [
            (item.ids.tolist(), np.array(item.context_ids).tolist(), real) for item, real in items
        ]
        others = {"target_bytes": 0, "changed": 0, "changed_example": []}  # of its first block
        return plain, counter.finish() | others

    right = made(words, *others)
    monkeypatch.setattr(marked, "LONG_CHARACTERS", 100)
    assert made(lazy, *others) == right


def test_bytes_of_a_long_text_are_all_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marked, "LONG_CHARACTERS", 100)
    words, counter = "the quick brown ß fox " * 40, Counter(CHARACTERS.special.unk)
    corpus = Corpus(Source(texts(words, "one")), ("text",), None)
    items = [*corpus.items("val", CHARACTERS, causal("windows", 50, 50), counter)]
    sizes = [item.reference.byte_count for item, _ in items if item.reference]
    assert sum(sizes) == counter.counts.target_bytes == counter.counts.bytes == 23 * 40 + 3
    assert max(sizes[:-1]) - min(sizes[:-1]) < 60
    assert [item.reference.record for item, _ in items if item.reference] == [0] * 18 + [1]
