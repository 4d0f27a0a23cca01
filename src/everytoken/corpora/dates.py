"""A sequence-to-sequence corpus: dates as the world writes them -> ISO 8601.

``samedi 7 février 1998``, ``2026年11月22日`` and ``٢٢ نوفمبر ٢٠٢٦`` become ``1998-02-07``,
``2026-11-22`` and ``2026-11-22``. Patterns, month and weekday names come from the Unicode CLDR
through ``babel``, which ships them: nothing is downloaded. The calendar dates themselves are
divided among the splits, so that a date seen in training is never asked for in evaluation.
"""

from collections.abc import Sequence
from datetime import date
from functools import cache
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
from babel import Locale
from babel.dates import DateTimePattern, tokenize_pattern

from everytoken.corpora.drawn import Drawn

LOCALES = (
    *("ca", "cs", "cy", "de", "en", "es", "et", "eu", "fi", "fr", "ga", "hr", "hu", "id", "is"),
    *("it", "lt", "lv", "nl", "pl", "pt", "ro", "sv", "sw", "tr", "vi"),  # Latin
    *("bg", "kk", "ru", "sr", "uk"),  # Cyrillic
    *("el", "hy", "ka", "he", "am"),  # Greek, Armenian, Georgian, Hebrew, Ethiopic
    *("ar_EG", "fa", "ur"),  # Arabic
    *("hi", "mr", "bn", "pa", "gu", "ta", "te", "kn", "ml", "si"),  # scripts of South Asia
    *("th", "lo", "km", "my"),  # scripts of Southeast Asia
    *("zh", "ja", "ko"),  # Chinese characters, kana, Hangul
)
FORMATS = ("full", "long", "medium", "short")

# In Unicode the digits of a numbering system follow its zero.
ZEROS = {
    "latn": "0",
    "arab": "\N{ARABIC-INDIC DIGIT ZERO}",
    "arabext": "\N{EXTENDED ARABIC-INDIC DIGIT ZERO}",
    "beng": "\N{BENGALI DIGIT ZERO}",
    "deva": "\N{DEVANAGARI DIGIT ZERO}",
    "mymr": "\N{MYANMAR DIGIT ZERO}",
}

# The share of the dates below which each split ends: 90 % train, 5 % val, 5 % test.
SPLIT_ENDS = {"train": 0.90, "val": 0.95, "test": 1.00}


class Form(NamedTuple):
    """One way to write a date: a CLDR pattern in one locale, with that locale's digits."""

    locale: Locale
    pattern: DateTimePattern

    def text(self, day: date) -> str:
        """The day as this form writes it."""
        # Babel writes 0-9 in every locale; the locale's own digits are put in here.
        digits = native_digits(self.locale.default_numbering_system)
        return self.pattern.apply(day, self.locale).translate(digits)

    def parts(self, day: date) -> list[tuple[str, str]]:
        """The same in parts: CLDR's letter of each field ("y", "d" …), "" of what is between."""
        found = []
        for kind, value in tokenize_pattern(self.pattern.pattern):
            letters = value[0] * int(value[1]) if kind == "field" else ""
            alone = DateTimePattern("", f"%({letters})s") if letters else None  # pyright: ignore
            text = Form(self.locale, alone).text(day) if alone else str(value)
            found.append((value[0] if alone else "", text))
        return found


@cache
def native_digits(numbering_system: str) -> dict[int, int]:
    """The table for ``str.translate`` from 0-9 to the digits of a CLDR numbering system."""
    zero = ord(ZEROS[numbering_system])
    return {ord("0") + value: zero + value for value in range(10)}


def determines_date(pattern: str) -> bool:
    """Whether a text in this CLDR pattern can be read as one date only.

    A two-digit year leaves the century open, and the initial of a month stands for several. A
    month in digits is known from the day by its place alone, so it must stand in the middle:
    ``y-M-d`` and ``d/M/y`` are kept and the rarer ``M/d/y`` is left out. A month spelled with its
    name may stand anywhere.
    """
    # M and L are the same field, inflected and not.
    tokens = tokenize_pattern(pattern.replace("L", "M"))
    widths = {value[0]: value[1] for kind, value in tokens if kind == "field"}
    order = "".join(field for field in widths if field in "yMd")
    named_month = widths.get("M") in (3, 4)
    middle_month = widths.get("M") in (1, 2) and order in ("yMd", "dMy")
    return widths.get("y") != 2 and (named_month or middle_month)


@cache
def all_forms() -> tuple[Form, ...]:
    """Every form that determines the date; forms that write all dates alike count once."""
    forms: dict[tuple[str, ...], Form] = {}
    for locale in map(Locale.parse, LOCALES):
        for pattern in (locale.date_formats[name] for name in FORMATS):
            if determines_date(pattern.pattern):
                form = Form(locale, pattern)
                # The first days of the months of 2026 show all months and all weekdays.
                look = tuple(form.text(date(2026, month, 1)) for month in range(1, 13))
                forms.setdefault(look, form)
    return tuple(forms.values())


def split_days(first_year: int, last_year: int, seed: int) -> dict[str, np.ndarray]:
    """The dates of each split, as ordinals; the split of a date depends on the seed alone."""
    # One draw for every date there is, so that other years do not move a date elsewhere.
    draws = np.random.default_rng([seed, 0]).random(date.max.toordinal() + 1)
    days = np.arange(date(first_year, 1, 1).toordinal(), date(last_year, 12, 31).toordinal() + 1)
    split = np.searchsorted(list(SPLIT_ENDS.values()), draws[days], side="right")
    return {name: days[split == index] for index, name in enumerate(SPLIT_ENDS)}


class Dates:
    """Dates in many languages and scripts (``source``) with their ISO 8601 form (``target``).

    Each example is a pair of a date of the split and a form, drawn uniformly, no pair twice.
    (Two languages may still write a date alike: ``9 september 2026`` is Dutch and Swedish.)
    ``train_examples``, ``val_examples`` and ``test_examples`` are how many are drawn, from the
    dates of ``first_year`` to ``last_year``; ``seed`` alone decides the split of each date.
    """

    fields = ("source", "target")

    def __init__(
        self,
        train_examples: int,
        val_examples: int,
        test_examples: int,
        first_year: int,
        last_year: int,
        seed: int,
    ) -> None:
        # A year of fewer than four digits could be taken for a two-digit year, or for a day.
        for name, year in (("first_year", first_year), ("last_year", last_year)):
            if not 1000 <= year <= 9999:
                raise ValueError(f"{name} is {year}: give a year of four digits, 1000 to 9999")
        if first_year > last_year:
            raise ValueError(
                f"first_year is {first_year}, after last_year {last_year}: "
                "give a first_year that is not later than last_year"
            )
        if seed < 0:
            raise ValueError(f"seed is {seed}: give a seed of 0 or more")
        self.seed = seed
        self.days = split_days(first_year, last_year, seed)
        self.counts = {"train": train_examples, "val": val_examples, "test": test_examples}
        for split, count in self.counts.items():
            days = len(self.days[split])
            if 0 <= count <= days:
                continue  # there is a form for each: to count them all takes a quarter of a second
            most = days * len(all_forms())
            if not 0 <= count <= most:
                raise ValueError(
                    f"{split}_examples is {count}: give 0 to {most}, the number of distinct "
                    f"examples that {first_year} to {last_year} holds, or widen the years"
                )

    def example(self, form: Form, day: date) -> dict[str, str]:
        """What a form and a date give."""
        return {"source": form.text(day), "target": day.isoformat()}

    def examples(self, split: str) -> Sequence[dict[str, str]]:
        """The examples of one split, the same at every call; each is made when it is read."""
        if split not in self.counts:
            raise ValueError(f"split is {split!r}: give one of {', '.join(self.counts)}")
        days = self.days[split]
        # A stream of its own for each split: the size of one leaves the others as they are.
        rng = np.random.default_rng([self.seed, 1 + list(SPLIT_ENDS).index(split)])
        drawn = rng.choice(len(days) * len(all_forms()), size=self.counts[split], replace=False)
        forms = all_forms()

        def make(number: int) -> dict[str, str]:
            day, form = divmod(number, len(forms))
            return self.example(forms[form], date.fromordinal(int(days[day])))

        return Drawn(make, drawn)  # pyright: ignore[reportArgumentType]: an array of numbers

    def fingerprint(self) -> str:
        """Changes with what the texts are made of, apart from arguments and code."""
        return f"babel {version('babel')}, numpy {version('numpy')}"
