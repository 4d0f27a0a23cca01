"""The tag of each word stands on its first token; none is lost, and none is learned elsewhere."""

import json
from typing import Any

import numpy as np
import pytest

from everytoken.batch import IGNORE_INDEX
from everytoken.data.counts import Counter
from everytoken.data.objective import ExampleKey
from everytoken.data.tags import Tagged, TokenClassification, places
from everytoken.errors import UserError
from everytoken.tokenizer.learned import train_bpe, train_byte, train_char
from everytoken.tokenizer.placed import Placed
from everytoken.tokenizer.tokenizer import Tokenizer

WORDS = ["New", "York", "zwölf", "🦊", "!"]
TAGS = ["B-X", "I-X", "O", "B-Y", "O"]
LABELS = ["B-X", "B-Y", "I-X", "O"]
KEY = ExampleKey(0, 0, 0)
KINDS = {
    "char": train_char([" ".join(WORDS)]),
    "byte": train_byte([]),
    "bpe": train_bpe([" ".join(WORDS)] * 9, 280),
}


def objective(kind: str = "byte", **settings: Any) -> TokenClassification:
    tokenizer: Tokenizer = KINDS[kind]
    tokenizer.labels = LABELS
    defaults: dict[str, Any] = {"max_tokens": 99, "long": "refuse", "label": "first"}
    defaults |= {"split": "punctuation"}
    return TokenClassification(
        tokenizer.special, len(tokenizer), tokenizer, **{**defaults, **settings}
    )


def encode(task: TokenClassification, words: list[str], tags: list[str]) -> Tagged:
    texts = {"words": json.dumps(words), "tags": json.dumps(tags)}
    [record] = task.encode([texts], lambda i: f"train example {i}")
    return record


@pytest.mark.parametrize("kind", KINDS)
def test_each_tag_stands_where_its_word_begins(kind: str) -> None:
    task = objective(kind)
    [item] = task.items(encode(task, WORDS, TAGS))
    assert item.ids.tolist() == [*KINDS[kind].encode([" ".join(WORDS)])[0], task.special.eos]
    for held_out in (item, item._replace(reference=None)):
        labels = task.example(held_out, KEY).labels
        spots = np.flatnonzero(labels != IGNORE_INDEX).tolist()
        assert [LABELS[labels[i]] for i in spots] == TAGS
        before = [KINDS[kind].decode(item.ids[:i].tolist()).strip() for i in spots]
        assert before == [" ".join(WORDS[:i]) for i in range(len(WORDS))]
    assert (task.label_count(item), task.real_count(item)) == (len(WORDS), len(item.ids))


def test_other_tokens_are_inside_in_training_only() -> None:
    task = objective(label="all")
    [item] = task.items(encode(task, ["ab", "cd", "ef"], ["B-X", "B-Y", "O"]))
    evaluated = task.example(item, KEY).labels.tolist()
    names = [LABELS[i] if i != IGNORE_INDEX else "" for i in evaluated]
    assert names == ["B-X", "", "", "B-Y", "", "", "O", "", ""]
    learned = task.example(item._replace(reference=None), KEY).labels.tolist()
    names = [LABELS[i] if i != IGNORE_INDEX else "" for i in learned]
    # No I-Y is known, so that word's tag goes on.
    assert names == ["B-X", "I-X", "", "B-Y", "B-Y", "", "O", "O", ""]


def test_tags_that_are_cut_off_are_counted() -> None:
    task = objective(max_tokens=6, long="truncate")
    record = encode(task, ["ab", "cd", "ef"], ["B-X", "O", "O"])
    assert task.is_too_long(record)
    [item] = task.items(record)
    assert (len(item.ids), task.label_count(item)) == (6, 2)
    assert not objective(max_tokens=9).is_too_long(record)


def test_a_line_is_answered_with_a_tag_a_word() -> None:
    question = objective().question("New York! zwölf", "line 1")
    assert int((question.labels != IGNORE_INDEX).sum()) == 4
    assert question.tell(np.eye(4)[[0, 2, 3, 3]]) == "New/B-X York/I-X !/O zwölf/O"


def test_order_of_tags_is_counted() -> None:
    counter = Counter(None)
    for tags in (["B-X", "I-X", "O"], ["O", "I-X", "B-Y"]):
        counter.add(["…"], [[1]])
        counter.add_labels(tags, in_order=True)
    counts = counter.counts
    assert counts.labels == {"B-X": 1, "I-X": 2, "O": 2, "B-Y": 1}
    assert (counts.begun, counts.unbegun) == (2, 1)
    assert counts.unbegun_at == "I-X after O at word 2 of example 1"


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "tags", "message"),
    [
        (["a", "b"], ["O"], "train example 0 has 2 words and 1 tags"),
        (["a"], ["B-Z"], "word 1, 'a', has the tag 'B-Z', and training has none such, but B-X"),
        (["a", ""], ["O", "O"], "no token for word 2"),
    ],
)
def test_what_would_lose_a_tag_is_refused(words: list[str], tags: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        encode(objective(), words, tags)
    assert message in str(error.value)


@pytest.mark.bad_input
def test_a_token_of_two_words_is_refused() -> None:
    with pytest.raises(UserError, match="'a' and 'b', words 1 and 2, are one token together"):
        places(["a", "b"], [Placed(7, 0, 3)], "val example 3")
