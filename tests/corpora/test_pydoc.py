"""The embedded corpus of texts: every topic once, no text in two splits."""

from pydoc_data.topics import topics

import pytest

from everytoken.corpora.pydoc import Pydoc
from everytoken.errors import UserError

SPLITS = ("train", "val", "test")


def texts(split: str, val: float = 0.1, test: float = 0.1, seed: int = 1) -> list[str]:
    return [example["text"] for example in Pydoc(val, test, seed).examples(split)]


def test_an_example_is_one_text() -> None:
    for split in SPLITS:
        for example in Pydoc(0.1, 0.1, 1).examples(split):
            assert tuple(example) == Pydoc.fields == ("text",)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_text_is_in_one_split_once(seed: int) -> None:
    # Several names may share a text: it counts once.
    found = [text for split in SPLITS for text in texts(split, seed=seed)]
    assert sorted(found) == sorted(set(topics.values()))


@pytest.mark.parametrize(("val", "test"), [(0.1, 0.1), (0.3, 0.05), (0.0, 0.5), (0.25, 0.0)])
def test_splits_have_their_fractions(val: float, test: float) -> None:
    total = len(set(topics.values()))
    assert len(texts("val", val, test)) == pytest.approx(val * total, abs=0.5)
    assert len(texts("test", val, test)) == pytest.approx(test * total, abs=0.5)


def test_same_seed_same_texts_in_the_same_order() -> None:
    for split in SPLITS:
        assert texts(split) == texts(split)
        assert texts(split) != texts(split, seed=2)


def test_the_split_of_a_text_is_drawn_by_chance() -> None:
    # Sorted texts would put topics that begin alike together.
    for split in SPLITS:
        assert texts(split) != sorted(texts(split))
    assert set(texts("test")) != set(texts("test", seed=2))


@pytest.mark.bad_input
@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.1), (0.1, -0.1), (0.5, 0.5), (1.0, 0.1)])
def test_bad_fractions_are_named(val: float, test: float) -> None:
    with pytest.raises(UserError) as error:
        Pydoc(val, test, 1)
    assert f"data.corpus.val_fraction={val}" in str(error.value)
    assert f"data.corpus.test_fraction={test}" in str(error.value)
    assert "\n" not in str(error.value)
