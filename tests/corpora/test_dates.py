"""What the dates corpus promises: many scripts, one reading per text, no date in two splits."""

import os
import subprocess
import sys
import unicodedata
from datetime import date, timedelta

import pytest
from babel import Locale
from babel.dates import format_date
from hypothesis import given
from hypothesis import strategies as st

from everytoken.corpora.dates import LOCALES, Dates, all_forms, determines_date

FORMATS = ("full", "long", "medium", "short")
ARGUMENTS = {
    "train_examples": 300,
    "val_examples": 100,
    "test_examples": 100,
    "first_year": 1900,
    "last_year": 2099,
    "seed": 1,
}


def corpus(**changed: int) -> Dates:
    return Dates(**{**ARGUMENTS, **changed})


def texts(locale: str, day: date) -> set[str]:
    """The day in every kept form of one locale."""
    return {form.text(day) for form in all_forms() if str(form.locale) == locale}


def latin_digits(text: str) -> str:
    return "".join(str(unicodedata.decimal(char, char)) for char in text)


# What is written


@pytest.mark.parametrize(
    ("locale", "text", "iso"),
    [
        ("fr", "samedi 7 février 1998", "1998-02-07"),
        ("zh", "2026年11月22日", "2026-11-22"),
        ("ar_EG", "٢٢ نوفمبر ٢٠٢٦", "2026-11-22"),
    ],
)
def test_dates_as_the_world_writes_them(locale: str, text: str, iso: str) -> None:
    assert text in texts(locale, date.fromisoformat(iso))


def test_many_locales_and_scripts() -> None:
    assert len(set(LOCALES)) == len(LOCALES) >= 40
    assert {str(form.locale) for form in all_forms()} == set(LOCALES)
    characters = {char for form in all_forms() for char in form.text(date(2026, 11, 22))}
    scripts = {unicodedata.name(char).split()[0] for char in characters if char.isalpha()}
    assert scripts >= {
        *("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "GEORGIAN", "HEBREW", "ARABIC", "ETHIOPIC"),
        *("DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "TAMIL", "TELUGU", "KANNADA"),
        *("MALAYALAM", "SINHALA", "THAI", "LAO", "KHMER", "MYANMAR", "CJK", "HANGUL"),
    }


@given(st.dates(date(1000, 1, 1)), st.data())
def test_a_form_writes_what_babel_writes(day: date, data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(all_forms()))
    locale = str(form.locale)
    assert form.pattern in [form.locale.date_formats[name] for name in FORMATS]
    assert latin_digits(form.text(day)) == format_date(day, form.pattern.pattern, locale)


@pytest.mark.parametrize("day", [date(2026, 11, 22), date(2031, 2, 5)])
def test_every_form_that_determines_the_date_is_kept(day: date) -> None:
    written = {latin_digits(form.text(day)) for form in all_forms()}
    for locale in LOCALES:
        for name in FORMATS:
            if determines_date(Locale.parse(locale).date_formats[name].pattern):
                assert format_date(day, name, locale) in written


@pytest.mark.parametrize("form", all_forms(), ids=lambda form: f"{form.locale}: {form.pattern}")
def test_digits_are_those_of_the_locale(form) -> None:
    zero = {"ar_EG": "٠", "fa": "۰", "mr": "०", "bn": "০", "my": "၀"}.get(str(form.locale), "0")
    for day in (date(1987, 6, 5), date(2034, 1, 2)):
        digits = [char for char in form.text(day) if unicodedata.category(char) == "Nd"]
        assert digits
        assert all(ord(char) - unicodedata.decimal(char) == ord(zero) for char in digits)


# One reading per text


def test_no_text_stands_for_two_dates() -> None:
    spans = [(date(1000, 1, 1), 31), (date(1998, 1, 1), 365), (date(2012, 1, 1), 366)]
    days = [start + timedelta(n) for start, length in spans for n in range(length)]
    meaning: dict[str, date] = {}
    for form in all_forms():
        for day in days:
            text = form.text(day)
            assert meaning.setdefault(text, day) == day, f"{text!r}: {day} or {meaning[text]}"


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("d/M/y", True),
        ("y-MM-dd", True),
        ("y年M月d日", True),
        ("MMM d, y", True),
        ("EEEE, LLLL d, y", True),
        ("d 'yy' MMMM y", True),
        ("M/d/y", False),
        ("L/d/y", False),
        ("y-dd-MM", False),
        ("d MMMM yy", False),
        ("dd.MM.yy", False),
        ("d MMMMM y", False),
        ("y MMMMM d", False),
    ],
)
def test_which_patterns_determine_the_date(pattern: str, kept: bool) -> None:
    assert determines_date(pattern) is kept


def test_no_two_forms_write_all_dates_alike() -> None:
    days = [date(2026, 1, 1) + timedelta(n) for n in range(0, 365, 5)]
    assert len({tuple(map(form.text, days)) for form in all_forms()}) == len(all_forms())


# The splits


def test_examples_are_texts_with_their_iso_dates() -> None:
    dates = corpus()
    for split, count in (("train", 300), ("val", 100), ("test", 100)):
        examples = dates.examples(split)
        assert len(examples) == count
        for example in examples:
            assert tuple(example) == Dates.fields
            day = date.fromisoformat(example["target"])
            assert 1900 <= day.year <= 2099
            assert example["source"] in {form.text(day) for form in all_forms()}


def test_every_date_belongs_to_one_split() -> None:
    days = corpus().days
    total = (date(2100, 1, 1) - date(1900, 1, 1)).days
    assert sorted(n for split in days.values() for n in split) == list(
        range(date(1900, 1, 1).toordinal(), date(2100, 1, 1).toordinal())
    )
    shares = {split: len(ordinals) / total for split, ordinals in days.items()}
    assert shares == pytest.approx({"train": 0.90, "val": 0.05, "test": 0.05}, abs=0.005)


def test_no_date_is_in_two_splits() -> None:
    # Many more examples than the dates of two years, so that an overlap would show.
    dates = corpus(train_examples=5000, first_year=2025, last_year=2026)
    train, val, test = (
        {example["target"] for example in dates.examples(split)}
        for split in ("train", "val", "test")
    )
    assert all((train, val, test))
    assert train.isdisjoint(val)
    assert train.isdisjoint(test)
    assert val.isdisjoint(test)


def test_the_split_of_a_date_depends_on_the_seed_alone() -> None:
    wide, narrow, other = corpus(), corpus(first_year=2020, last_year=2030), corpus(seed=2)
    assert set(narrow.days["test"]) <= set(wide.days["test"])
    assert set(other.days["test"]) != set(wide.days["test"])


def test_each_date_and_form_is_drawn_at_most_once() -> None:
    days = corpus(first_year=2026, last_year=2026).days["val"]
    pairs = [(form, date.fromordinal(int(day))) for form in all_forms() for day in days]
    dates = corpus(val_examples=len(pairs), first_year=2026, last_year=2026)
    drawn = [tuple(example.values()) for example in dates.examples("val")]
    assert sorted(drawn) == sorted((form.text(day), day.isoformat()) for form, day in pairs)


def test_all_forms_and_all_dates_are_drawn_about_equally() -> None:
    examples = corpus(train_examples=20_000).examples("train")
    years = [int(example["target"][:4]) for example in examples]
    assert sum(years) / len(years) == pytest.approx(1999.5, abs=2)
    native = sum(not example["source"].isascii() for example in examples) / len(examples)
    days = [date(1900, 1, 1) + timedelta(n) for n in range(0, 73_000, 997)]
    expected = [not form.text(day).isascii() for form in all_forms() for day in days]
    assert native == pytest.approx(sum(expected) / len(expected), abs=0.02)


# The same again


def test_same_arguments_same_examples() -> None:
    for split in ("train", "val", "test"):
        dates = corpus()
        assert dates.examples(split) == dates.examples(split) == corpus().examples(split)
        assert dates.examples(split) != corpus(seed=2).examples(split)


def test_one_split_does_not_depend_on_the_size_of_another() -> None:
    small, large = corpus(train_examples=0), corpus(train_examples=2000)
    assert small.examples("train") == []
    for split in ("val", "test"):
        assert small.examples(split) == large.examples(split)


def test_another_process_draws_the_same() -> None:
    code = "from everytoken.corpora import Dates\n"
    code += f"print(ascii(Dates(**{ARGUMENTS}).examples('train')))"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert output.strip() == ascii(corpus().examples("train"))


# Bad arguments


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"first_year": 2100}, "first_year is 2100, after last_year 2099: give"),
        ({"first_year": 0}, "first_year is 0: give"),
        ({"first_year": 98}, "first_year is 98: give"),
        ({"last_year": 10_000}, "last_year is 10000: give"),
        ({"train_examples": -1}, "train_examples is -1: give"),
        ({"val_examples": -5}, "val_examples is -5: give"),
        ({"test_examples": 10**9}, "test_examples is 1000000000: give 0 to [0-9]+"),
        ({"seed": -1}, "seed is -1: give"),
    ],
)
def test_bad_arguments_are_named(changed: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        corpus(**changed)
    assert "\n" not in str(error.value)


def test_the_number_of_distinct_examples_is_the_limit() -> None:
    years = {"first_year": 2026, "last_year": 2026}
    most = len(corpus(**years).days["test"]) * len(all_forms())
    assert len(corpus(**years, test_examples=most).examples("test")) == most
    with pytest.raises(ValueError, match=f"test_examples is {most + 1}: give 0 to {most}"):
        corpus(**years, test_examples=most + 1)


def test_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="split is 'dev': give one of train, val, test"):
        corpus().examples("dev")
