"""Texts are cut into words, and marked parts become tags of whole words."""

import pytest

from everytoken.corpora.words import SPLITS, Span, Split, split_words, tags_of

LINE = "Anna's 3rd  visit:\u00a02026年11月! शनिवार, \u200fU.S."


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("punctuation", "Anna ' s 3 rd visit : 2026 年 11 月 ! शनिवार , U . S ."),
        ("spaces", "Anna's 3rd visit: 2026年11月! शनिवार, \u200fU.S."),
        ("characters", " ".join(LINE.replace(" ", "").replace("\u00a0", "").replace("\u200f", ""))),
    ],
)
def test_words_hold_all_that_can_be_seen(split: Split, words: str) -> None:
    assert split_words(LINE, split) == words.split(" ")


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("text", ["", " \n\t", "\u3000"])
def test_blank_texts_have_no_words(text: str, split: Split) -> None:
    assert split_words(text, split) == []


def test_words_of_a_span_begin_and_continue_it() -> None:
    words, tags = tags_of("Anna lives in (New York).", [Span(15, 23, "LOC")], "punctuation")
    assert words == ["Anna", "lives", "in", "(", "New", "York", ")", "."]
    assert tags == ["O", "O", "O", "O", "B-LOC", "I-LOC", "O", "O"]


def test_neighbours_of_one_kind_are_two() -> None:
    assert tags_of("a b c", [Span(2, 3, "X"), Span(0, 1, "X")], "spaces")[1] == ["B-X", "B-X", "O"]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 3, "X")], "the span 'Ann' (0 to 3, X) cuts the word 'Anna'"),
        ([(2, 9, "X")], "cuts the word 'Anna'"),
        ([(0, 6, "X"), (5, 9, "Y")], "'Bell' (5 to 9, Y) overlaps 'Anna B' (0 to 6, X)"),
        ([(0, 4, "X"), (0, 4, "Y")], "overlaps"),
        ([(0, 30, "X")], "0 to 30 (X) isn't in its text, which has 10 characters"),
        ([(-1, 4, "X")], "isn't in its text"),
        ([(4, 4, "X")], "isn't in its text"),
        ([(4, 5, "X")], "holds no word"),
    ],
)
def test_spans_that_are_no_words_are_refused(
    spans: list[tuple[int, int, str]], message: str
) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        tags_of("Anna Bell.", [Span(*one) for one in spans], "punctuation")
    assert message in str(error.value)
