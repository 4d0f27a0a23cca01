"""BLEU and chrF: sacrebleu's scores of all texts together, for any batching."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from everytoken.training.text_metrics import Bleu, Chrf

few = settings(max_examples=40, deadline=None)

SENTENCES = (
    "a man rides a bike",
    "two dogs run on the green grass",
    "a girl",
    "the street is empty today and so is the square beside it",
    "",
)


@given(
    pairs=st.lists(
        st.tuples(st.sampled_from(SENTENCES), st.sampled_from(SENTENCES)), min_size=1, max_size=12
    ),
    cuts=st.lists(st.integers(0, 12), max_size=3),
)
@settings(deadline=None)
def test_bleu_is_sacrebleus_however_the_texts_are_cut(
    pairs: list[tuple[str, str]], cuts: list[int]
) -> None:
    metric = Bleu(lowercase=True)
    bounds = sorted([0, *cuts, len(pairs)])
    for begin, end in pairwise(bounds):
        part = pairs[begin : max(begin, end)]
        metric.update([p.upper() for p, _ in part], [r for _, r in part])
    predictions, references = zip(*pairs, strict=True)
    oracle = BLEU(lowercase=True).corpus_score(list(predictions), [list(references)])
    if any(map(str.split, [*predictions, *references])):
        assert float(metric.compute()) == pytest.approx(oracle.score)
    else:
        assert metric.compute().isnan()


def test_bleu_of_nothing_is_nan() -> None:
    assert Bleu().compute().isnan()


def test_bleu_says_how_texts_become_words() -> None:
    metric = Bleu(tokenize="char")
    metric.update(["abcdx"], ["abcde"])
    assert float(metric.compute()) > 50


@few
@given(
    pairs=st.lists(
        st.tuples(st.sampled_from(SENTENCES), st.sampled_from(SENTENCES)), min_size=1, max_size=6
    ),
    cuts=st.lists(st.integers(0, 6), max_size=3),
    word_order=st.sampled_from([0, 2]),
)
def test_chrf_is_sacrebleus_however_the_texts_are_cut(
    pairs: list[tuple[str, str]], cuts: list[int], word_order: int
) -> None:
    metric = Chrf(word_order=word_order, lowercase=True)
    for begin, end in pairwise(sorted([0, *cuts, len(pairs)])):
        part = pairs[begin:end]
        metric.update([p.upper() for p, _ in part], [r for _, r in part])
    predictions, references = zip(*pairs, strict=True)
    oracle = CHRF(word_order=word_order, lowercase=True)
    expected = oracle.corpus_score(list(predictions), [list(references)]).score
    assert float(metric.compute()) == pytest.approx(expected)


def test_chrf_of_nothing_is_nan_and_of_other_texts_nothing() -> None:
    metric = Chrf(word_order=0, lowercase=False)
    assert metric.compute().isnan()
    metric.update(["abc"], ["xyz"])
    assert float(metric.compute()) == 0


def test_texts_that_are_tokenized_already_are_no_reason_to_warn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """sacrebleu would, in each evaluation."""
    texts = ["a b ."] * 100
    Bleu(tokenize="none").update(texts, texts)
    assert caplog.text == ""
