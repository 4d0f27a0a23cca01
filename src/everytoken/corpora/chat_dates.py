"""Short chats about dates in several languages, made from the Unicode CLDR: nothing is downloaded.

A user has a date converted to ISO 8601, has it written otherwise, asks which of two is earlier, or
leaves out the year and is asked for it. One or two such requests make a chat. The calendar dates
are divided among the splits, as those of `Dates` are.
"""

from collections.abc import Callable, Sequence
from datetime import date
from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from babel import Locale
from babel.dates import format_skeleton

from everytoken.corpora.conversations import Conversation
from everytoken.corpora.dates import SPLIT_ENDS, Form, all_forms, split_days
from everytoken.corpora.drawn import Drawn


class Phrases(NamedTuple):
    """What is said in one language."""

    convert: str
    day_first: str
    earlier: str
    places: tuple[str, str]
    """Which of two it is."""
    which_year: str


PHRASES = {
    "de": Phrases(
        "{} in ISO, bitte.",
        "Mit dem Tag zuerst?",
        "Was ist früher, {} oder {}?",
        ("Das erste.", "Das zweite."),
        "Welches Jahr?",
    ),
    "en": Phrases(
        "{} in ISO, please.",
        "With the day first?",
        "Which is earlier, {} or {}?",
        ("The first.", "The second."),
        "Which year?",
    ),
    "es": Phrases(
        "{} en ISO, por favor.",
        "¿Con el día primero?",
        "¿Qué es antes, {} o {}?",
        ("La primera.", "La segunda."),
        "¿Qué año?",
    ),
    "fr": Phrases(
        "{} en ISO, merci.",
        "Avec le jour d'abord ?",
        "Laquelle vient avant, {} ou {} ?",
        ("La première.", "La seconde."),
        "Quelle année ?",
    ),
}
"""By CLDR's name of the language."""

MOST_REQUESTS = 2

DRAWS = 9
"""How often a date is drawn anew that is compared with one of its own decade: others are easier."""

Draw = Callable[[], date]
"""Draws a date."""


class ChatDates:
    """Chats about dates.

    Args:
        train_examples: how many there are for training.
        val_examples: the same for validation.
        test_examples: the same for test.
        first_year: of the dates, four digits.
        last_year: the same.
        seed: decides which dates each split gets, and what is said.

    Raises:
        ValueError: years or a seed that make no sense.
    """

    fields = ("messages",)

    def __init__(
        self,
        train_examples: int,
        val_examples: int,
        test_examples: int,
        first_year: int,
        last_year: int,
        seed: int,
    ) -> None:
        if not 1000 <= first_year <= last_year <= 9999:
            raise ValueError(
                f"first_year is {first_year} and last_year {last_year}: give years of four digits, "
                "the first one first"
            )
        if seed < 0:
            raise ValueError(f"seed is {seed}: give a seed of 0 or more")
        self.seed = seed
        self.days = split_days(first_year, last_year, seed)
        self.counts = {"train": train_examples, "val": val_examples, "test": test_examples}

    def examples(self, split: str) -> Sequence[dict[str, str]]:
        """The chats of a split, the same at every call; each is made when it is read."""
        days, place = self.days[split], 1 + list(SPLIT_ENDS).index(split)

        def make(number: int) -> dict[str, str]:
            rng = np.random.default_rng([self.seed, place, number])

            def draw() -> date:
                return date.fromordinal(int(days[rng.integers(len(days))]))

            return {"messages": Conversation(chat(rng, draw)).packed()}

        return Drawn(make, range(self.counts[split]))

    def fingerprint(self) -> str:
        """Changes with what the texts are made of, apart from arguments and code."""
        return f"babel {version('babel')}, numpy {version('numpy')}"


def chat(rng: np.random.Generator, draw: Draw) -> list[dict[str, Any]]:
    """The messages of a chat.

    Args:
        rng: decides what is said.
        draw: gives dates.
    """
    language = [*PHRASES][rng.integers(len(PHRASES))]
    said: list[str] = []
    for _ in range(1 + int(rng.integers(MOST_REQUESTS))):
        is_iso = bool(said) and said[-1][4:5] == "-"  # which can be written otherwise
        requests = (_convert, _compare, _without_year, *[_otherwise] * (3 * is_iso))
        said += requests[rng.integers(len(requests))](rng, draw, language, said)
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]


def _convert(rng: np.random.Generator, draw: Draw, language: str, said: list[str]) -> list[str]:
    day = draw()
    return [PHRASES[language].convert.format(_written(rng, day, language)), day.isoformat()]


def _compare(rng: np.random.Generator, draw: Draw, language: str, said: list[str]) -> list[str]:
    phrases, days = PHRASES[language], [draw(), draw()]
    for _ in range(DRAWS):
        if days[0].year // 10 != days[1].year // 10:
            break
        days[1] = draw()
    texts = [_written(rng, day, language) for day in days]
    return [phrases.earlier.format(*texts), phrases.places[days[1] < days[0]]]


def _without_year(
    rng: np.random.Generator, draw: Draw, language: str, said: list[str]
) -> list[str]:
    day, phrases = draw(), PHRASES[language]
    text = format_skeleton("MMMMd", day, locale=language)
    return [phrases.convert.format(text), phrases.which_year, str(day.year), day.isoformat()]


def _otherwise(rng: np.random.Generator, draw: Draw, language: str, said: list[str]) -> list[str]:
    year, month, day = said[-1].split("-")
    return [PHRASES[language].day_first, f"{day}/{month}/{year}"]


def _written(rng: np.random.Generator, day: date, language: str) -> str:
    forms = _forms(language)
    return forms[rng.integers(len(forms))].text(day)


@cache
def _forms(language: str) -> list[Form]:
    """Ways to write a date in a language, without the day of the week: chats are to be short."""
    own = (form for form in all_forms() if form.locale == Locale.parse(language))
    return [form for form in own if "E" not in form.pattern.pattern]
