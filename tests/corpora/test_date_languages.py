"""Dates whose language can be told."""

from datetime import date, timedelta

import pytest

from everytoken.corpora.date_languages import DateLanguages, telling_forms


def make(**counts: int) -> DateLanguages:
    sizes = {"train_examples": 300, "val_examples": 40, "test_examples": 40}
    return DateLanguages(**{**sizes, "first_year": 1990, "last_year": 2030, "seed": 1, **counts})


def test_no_text_is_written_in_two_languages() -> None:
    """All days of a year, for another may be that day's text elsewhere."""
    languages: dict[str, str] = {}
    for number in range(365):
        day = date(2026, 1, 1) + timedelta(number)
        for form in telling_forms()[day.month - 1]:
            language = form.locale.language
            assert languages.setdefault(form.text(day), language) == language
    assert len({*languages.values()}) > 50


def test_examples_are_the_same_at_every_call_and_in_one_split_only() -> None:
    corpus = make()
    splits = {split: list(corpus.examples(split)) for split in ("train", "val", "test")}
    assert splits["train"] == list(make(val_examples=3).examples("train"))
    texts = {split: {example["text"] for example in found} for split, found in splits.items()}
    assert sum(map(len, texts.values())) == len(set.union(*texts.values()))
    assert splits["train"][7:9] == list(corpus.examples("train")[7:9])


def test_every_pair_of_a_date_and_a_form_is_drawn_once() -> None:
    most = int(make(first_year=2026, last_year=2026)._ends("test")[-1])
    counts = {"train_examples": 0, "val_examples": 0, "test_examples": most}
    found = list(make(first_year=2026, last_year=2026, **counts).examples("test"))
    assert len(found) == most
    assert len({example["text"] for example in found}) > 0.9 * most  # some forms share a month


@pytest.mark.bad_input
def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="val_examples is 999999: give 0 to"):
        make(val_examples=999_999)
