"""Splits: every example is in one of them, equal examples in the same one, whatever the others."""

from collections import Counter
from collections.abc import Iterator
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everytoken.corpora.shares import by_position
from everytoken.corpora.splits import BLANK, LEAKED, SPLITS, SplitSource, hold_out_at_most
from everytoken.errors import UserError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
TEXTS = st.lists(TEXT.filter(lambda text: not text.isspace()), max_size=30)
NUMBERS = [str(n) for n in range(5000)]


class Stored(SplitSource):
    """Texts in memory, by split."""

    fields = ("text",)
    own = "data.{split}_texts"

    def __init__(
        self, val_share: float = 0.2, test_share: float = 0.1, /, seed: int = 1, **texts: list[str]
    ):
        super().__init__(texts, val_share, test_share, seed)
        self.texts = texts

    def read(self, split: str) -> Iterator[dict[str, str]]:
        return ({"text": text} for text in self.texts[split])

    def where(self, split: str) -> str:
        return f"memory ({split})"


class TwoSides(Stored):
    """The same as pairs, with a bar between their sides."""

    def read(self, split: str) -> Iterator[dict[str, str]]:
        return (dict(zip("ab", text.split("|"), strict=True)) for text in self.texts[split])


def texts(source: SplitSource, split: str) -> list[str]:
    """The examples of a split; none if it says that it is empty."""
    try:
        return [example["text"] for example in source.examples(split)]
    except UserError as error:
        if "split is empty" in str(error):
            return []
        raise


def reason(source: SplitSource, split: str) -> str:
    with pytest.raises(UserError) as error:
        list(source.examples(split))
    assert "\n" not in str(error.value)
    return str(error.value)


# By a share


@given(TEXTS)
@settings(deadline=None)
def test_shares_are_a_partition_without_a_text_in_two(given_texts: list[str]) -> None:
    found = {split: texts(Stored(train=given_texts), split) for split in SPLITS}
    assert Counter(chain(*found.values())) == Counter(given_texts)
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not set(found[one]) & set(found[other])


@given(TEXTS, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_split_of_a_text_depends_on_no_other_and_not_on_order(
    given_texts: list[str],
    chance: "st.random.Random",  # pyright: ignore
) -> None:
    some = [text for text in given_texts if chance.random() < 0.5]
    chance.shuffle(some)
    for split in SPLITS:
        whole = set(texts(Stored(train=given_texts), split))
        assert texts(Stored(train=some), split) == [text for text in some if text in whole]


def test_shares_are_as_large_as_asked_for() -> None:
    source = Stored(train=NUMBERS)
    sizes = [len(texts(source, split)) / len(NUMBERS) for split in SPLITS]
    assert sizes == pytest.approx([0.7, 0.2, 0.1], abs=0.02)


def test_the_seed_decides() -> None:
    assert texts(Stored(train=NUMBERS), "val") == texts(Stored(train=NUMBERS), "val")
    assert texts(Stored(train=NUMBERS), "val") != texts(Stored(train=NUMBERS, seed=2), "val")


def test_a_larger_share_of_validation_takes_nothing_out_of_it() -> None:
    smaller, larger = (texts(Stored(val, 0, train=NUMBERS), "val") for val in (0.1, 0.2))
    assert set(smaller) < set(larger)


def test_examples_can_be_read_again_and_side_by_side() -> None:
    examples = Stored(train=NUMBERS).examples("val")
    assert iter(examples) is not examples
    first, second = iter(examples), iter(examples)
    assert next(first) == next(second)
    assert list(examples) == list(examples)


def test_fields_are_told_apart() -> None:
    """("ab", "") isn't ("a", "b")."""
    source = TwoSides(train=["ab|c"], test=["a|bc"])
    assert len(list(source.examples("train"))) == 1


# Stored splits


@given(TEXTS, TEXTS, TEXTS)
@settings(deadline=None)
def test_what_is_held_out_is_left_out_of_training_and_counted(
    train: list[str], val: list[str], test: list[str]
) -> None:
    source = Stored(train=train, val=val, test=test)
    assert texts(source, "test") == test
    assert texts(source, "val") == [text for text in val if text not in test]
    kept = [text for text in train if text not in [*val, *test]]
    assert texts(source, "train") == kept
    if kept:
        missing = len(train) - len(kept)
        assert source.dropped["train"] == ({LEAKED: missing} if missing else {})


def test_a_share_of_training_may_be_held_out_beside_a_stored_split() -> None:
    source = Stored(train=NUMBERS, test=NUMBERS[:1000])
    train, val = texts(source, "train"), texts(source, "val")
    assert sorted(train + val) == sorted(NUMBERS[1000:])
    assert len(val) == pytest.approx(0.2 * 4000, rel=0.2)
    assert source.dropped["train"][LEAKED] + source.dropped["val"][LEAKED] == 1000


def test_duplicates_within_a_split_stay() -> None:
    source = Stored(train=["a", "a", "b"], val=["c", "c"], test=["d"])
    assert texts(source, "train") == ["a", "a", "b"]
    assert texts(source, "val") == ["c", "c"]


def test_what_was_left_out_is_counted_anew_each_time() -> None:
    source = Stored(train=["a", "b", "b"], val=["b"], test=["c"])
    for _ in range(2):
        assert texts(source, "train") == ["a"]
        assert source.dropped == {"train": {LEAKED: 2}}


def test_blank_texts_are_no_examples_but_a_blank_side_is_counted() -> None:
    source = TwoSides(0, 0, train=["a|b", " | ", "c|", "\t|d"])
    assert list(source.examples("train")) == [{"a": "a", "b": "b"}]
    assert source.dropped == {"train": {BLANK: 2}}
    assert source.dropped_at == {"train": {BLANK: "examples 3, 4"}}


def test_places_of_what_a_held_out_split_lacks_are_told() -> None:
    """So whoever writes a line for each that is stored knows where one is missing."""
    test = ["a|b", " | ", "c|", "d|e"]
    source = TwoSides(0, 0, train=["a|b", "x|y", "|"], val=["d|e", "f|g", "\t|h"], test=test)
    for split, kept in (("train", 1), ("val", 1), ("test", 2)):
        assert len(list(source.examples(split))) == kept
    assert source.gaps == {"val": [0, 2], "test": [1, 2]}
    next(iter(source.examples("test")))
    assert source.gaps["test"] == []  # as far as it was read


# Empty splits


@pytest.mark.bad_input
@pytest.mark.parametrize("given_texts", [["a"], ["a"] * 100])
def test_one_example_or_equal_ones_make_one_split(given_texts: list[str]) -> None:
    source = Stored(train=given_texts)
    filled = [split for split in SPLITS if texts(source, split)]
    assert len(filled) == 1
    for split in {"val", "test"} - set(filled):
        message = reason(source, split)
        assert f"none of the {len(given_texts)} examples of memory (train)" in message
        assert f"data.{split}_fraction=" in message
        assert f"data.{split}_texts" in message
        assert "equal ones stay together" in message


@pytest.mark.bad_input
def test_no_share_and_no_files() -> None:
    message = reason(Stored(0, 0, train=["a"]), "val")
    assert "set data.val_texts, or data.val_fraction above 0" in message


@pytest.mark.bad_input
def test_nothing_stored() -> None:
    for split in SPLITS:
        assert "memory (train) has no example" in reason(Stored(train=["", " \n"]), split)
    assert "memory (val) has no example" in reason(Stored(train=["a"], val=[]), "val")


@pytest.mark.bad_input
def test_everything_left_out() -> None:
    message = reason(Stored(train=["a", "a"], val=["a"], test=["b"]), "train")
    assert f"2 {LEAKED} (examples 1, 2)" in message
    message = reason(TwoSides(0, 0, train=["|", *["a|"] * 7], val=["d|e"], test=["f|g"]), "train")
    assert f"7 {BLANK} (examples 2, 3, 4, 5, 6, …)" in message


@pytest.mark.bad_input
@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.1), (0.1, 1.0), (0.5, 0.5)])
def test_bad_fractions_are_named(val: float, test: float) -> None:
    with pytest.raises(UserError, match=rf"data\.(val|test)_fraction=({val}|{test}) "):
        Stored(val, test, train=["a"])


@pytest.mark.bad_input
def test_training_examples_must_be_stored() -> None:
    with pytest.raises(UserError, match="no training examples"):
        Stored(val=["a"])  # pyright: ignore


@pytest.mark.parametrize("order", [1, -1])
def test_a_held_out_share_has_no_more_examples_than_it_may(
    order: int,
) -> None:
    """Whatever the order, and however often a text is there; the others are trained on."""
    whole = Stored(train=NUMBERS)
    right = {split: texts(whole, split) for split in SPLITS}
    limited = hold_out_at_most(Stored(train=[*NUMBERS, *NUMBERS][::order]), 150)
    found = {split: texts(limited, split) for split in SPLITS}
    assert sum(map(len, found.values())) == 2 * len(NUMBERS)
    for split in ("val", "test"):
        assert len(found[split]) == 2 * 150
        assert {*found[split]} < {*right[split]}
    assert not {*found["train"]} & {*found["val"], *found["test"]}


@pytest.mark.parametrize("most", [None, 2000])
def test_a_small_corpus_is_divided_as_without_a_limit(most: int | None) -> None:
    whole, limited = Stored(train=NUMBERS), hold_out_at_most(Stored(train=NUMBERS), most)
    for split in SPLITS:
        assert texts(limited, split) == texts(whole, split)


def test_a_stored_split_has_no_limit() -> None:
    limited = hold_out_at_most(Stored(train=["a"], val=NUMBERS, test=["b"]), 10)
    assert len(texts(limited, "val")) == len(NUMBERS)


def test_a_text_that_is_cut_has_a_limit_in_thousands() -> None:
    shares = {"val": 0.1, "test": 0.2}
    assert by_position(100_000, shares, 5) == {
        **{"train": (0, 90_000), "val": (90_000, 95_000), "test": (95_000, 100_000)}
    }
    assert by_position(10_000, shares, 5) == by_position(10_000, shares)
